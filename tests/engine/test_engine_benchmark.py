"""Engines that are right, wrong, repaired and missing, side by side, made of a small network."""

import mmap
import weakref

import pytest
import torch
from torch import nn

from gpuopt.engine.benchmark import (
    MadeEngine,
    benchmark_batch_sizes,
    benchmark_engines,
    used_bytes,
)
from gpuopt.engine.fallback import ProofImages, reference_of
from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.engine.race import race
from gpuopt.engine.verification import Bounds
from gpuopt.errors import InputError

CPU = torch.device("cpu")


class Net(nn.Module):
    """Classifies by four pixels."""

    def forward(self, images):
        return 4 * images[:, 0, 0, :4]


NETWORK = TrainedNetwork(Net().eval(), (128.0,) * 3, (64.0,) * 3, "net")
REQUEST = EngineRequest(16, 4, "fp16", 4, 8, CPU)


class FakeEngine:
    """The network with its clock: a call takes `call_s`; wrong ones turn the logits around."""

    device = CPU

    def __init__(self, name, request, clock, call_s, is_wrong):
        self.name, self.precision, self.max_batch_size = name, request.precision, 8
        self.clock, self.call_s, self.is_wrong = clock, call_s, is_wrong
        self.answer = reference_of(NETWORK, CPU)

    def __call__(self, images):
        self.clock[0] += self.call_s
        logits = self.answer(images)
        return -logits if self.is_wrong else logits


def pictures(count=24):
    images = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
    rows = torch.arange(count)
    images[rows, 0, 0, rows % 4] = 200
    return ProofImages(images, tuple(f"{row}.png" for row in range(count)))


CALL_S = {"eager": 0.1, "onnx": 0.02, "compiled": 0.05, "aot_inductor": 0.01}


def run(names=("onnx", "compiled", "aot_inductor", "tensorrt"), least=24):
    clock, lines = [0.0], []

    def make(name, request):
        if name == "tensorrt":
            raise InputError("engine=tensorrt needs torch-tensorrt: pip install 'gpuopt[tensorrt]'")
        is_wrong = name == "aot_inductor" or (name == "compiled" and request.precision == "fp16")
        engine = FakeEngine(name, request, clock, CALL_S[name], is_wrong)
        return MadeEngine(engine, None if name == "onnx" else 7.0)

    records = benchmark_engines(
        names,
        REQUEST,
        NETWORK,
        pictures(),
        make=make,
        warmup=1,
        runs=4,
        bounds=Bounds(least_images=least),
        tell=lines.append,
        clock=lambda: clock[0],
    )
    return {record.engine: record for record in records}, lines


def test_engines_are_proved_then_timed_and_what_failed_is_named():
    records, lines = run()
    assert list(records) == ["eager", "onnx", "compiled", "aot_inductor", "tensorrt"]
    assert {name: record.is_verified for name, record in records.items()} == {
        "eager": True,
        "onnx": True,
        "compiled": True,
        "aot_inductor": False,
        "tensorrt": False,
    }
    assert (records["onnx"].precision, records["compiled"].precision) == ("fp16", "fp32")
    assert "0.00% have the same class" in records["aot_inductor"].reason
    assert "pip install 'gpuopt[tensorrt]'" in records["tensorrt"].reason
    assert records["aot_inductor"].timings == records["tensorrt"].timings == ()
    assert not any("\n" in line for line in lines)


def test_speed_is_that_of_the_engine_at_one_the_optimal_and_the_largest_batch():
    records, _ = run()
    timing = records["onnx"].timing("end_to_end", 4)
    assert timing.p50_ms == pytest.approx(20)
    assert timing.samples_per_second == pytest.approx(200)
    assert timing.time_ratio.ratio == pytest.approx(0.2)
    sizes = [(t.scope, t.batch_size) for t in records["onnx"].timings]
    assert sizes == [(s, n) for s in ("engine", "end_to_end") for n in (1, 4, 8)]
    assert benchmark_batch_sizes(4, 8) == (1, 4, 8)
    assert benchmark_batch_sizes(1, 1) == (1,)


def test_building_counts_until_all_sizes_were_called_and_a_cached_engine_was_not_built():
    records, _ = run()
    assert records["compiled"].build_s == pytest.approx(7 + 3 * 0.05)
    assert records["onnx"].build_s is None


def test_with_few_images_engines_are_timed_and_none_counts_as_proved():
    records, _ = run(names=("onnx",), least=500)
    assert not records["onnx"].is_verified
    assert records["onnx"].reason.startswith("not proved: 24 images, at least 500 are needed")
    assert records["onnx"].verification.agreement == 1.0
    assert records["onnx"].timings


def test_memory_is_what_the_process_holds_more():
    before = used_bytes(CPU, settle=True)
    if before is None:
        pytest.skip("the memory of a process is read from Linux's /proc, which is not here")
    with mmap.mmap(-1, 64 << 20) as kept:  # never memory that the allocator has kept
        kept.write(b"1" * (64 << 20))
        assert used_bytes(CPU) - before > 32 << 20
    assert run(names=("onnx",))[0]["onnx"].memory_bytes >= 0


ALIVE = weakref.WeakSet()


class Roomy(FakeEngine):
    """Runs a batch of 8 only where at most `most` engines are in memory."""

    most = 2

    def __init__(self, *args):
        super().__init__(*args)
        ALIVE.add(self)
        self.racing = False

    def __call__(self, images):
        if self.racing and len(images) == 8 and len(ALIVE) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(images)


def crowded(monkeypatch, most, names=("onnx", "compiled")):
    monkeypatch.setattr(Roomy, "most", most)
    clock, made = [0.0], []

    def make(name, request):
        made.append(name)
        engine = Roomy(name, request, clock, CALL_S[name], False)
        engine.racing = made.count(name) > 1  # the second time is for the race alone
        return MadeEngine(engine, None)

    def timed(engines, *args, **options):
        for engine in engines.values():
            engine.racing = True
        return race(engines, *args, **options)

    monkeypatch.setattr("gpuopt.engine.benchmark.race", timed)
    records = benchmark_engines(
        names,
        REQUEST,
        NETWORK,
        pictures(),
        make=make,
        warmup=1,
        runs=4,
        bounds=Bounds(least_images=24),
        tell=lambda line: None,
        clock=lambda: clock[0],
    )
    return {record.engine: record for record in records}


def test_what_does_not_fit_beside_the_others_is_timed_beside_eager_alone(monkeypatch):
    records = crowded(monkeypatch, most=2)
    for name, record in records.items():
        sizes = [(t.scope, t.batch_size) for t in record.timings]
        assert sizes == [(s, n) for s in ("engine", "end_to_end") for n in (1, 4, 8)], name
        assert record.faults == ()
    assert records["onnx"].timing("end_to_end", 8).time_ratio.ratio == pytest.approx(0.2)


def test_memory_that_runs_out_costs_one_batch_size_and_is_named(monkeypatch):
    records = crowded(monkeypatch, most=0)
    for record in records.values():
        assert {t.batch_size for t in record.timings} == {1, 4}
        assert record.is_verified
        assert [fault.split(":")[0] for fault in record.faults] == [
            "not timed at a batch of 8 (engine)",
            "not timed at a batch of 8 (end to end)",
        ]
