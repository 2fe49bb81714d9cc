"""Timing with a clock that engines move, so that every figure is known."""

import pytest
import torch

from gpuopt.engine.race import race

CPU = torch.device("cpu")
IMAGES = torch.arange(5 * 3 * 4 * 4, dtype=torch.uint8).view(5, 3, 4, 4)


class Clock:
    """Slows down by a share of its speed with every call, as a machine that warms up."""

    def __init__(self, drift=0.0):
        self.now, self.drift, self.factor = 100.0, drift, 1.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds * self.factor
        self.factor += self.drift


class FakeEngine:
    name, precision, device, max_batch_size = "fake", "fp32", CPU, 16

    def __init__(self, clock, seconds, log, name):
        self.clock, self.seconds, self.log, self.own = clock, seconds, log, name
        self.batches = []

    def __call__(self, images):
        self.batches.append(images)
        self.log.append(self.own)
        self.clock.spend(self.seconds(len(images), len(self.batches)))
        return torch.zeros(len(images), 3)


def run(seconds, drift=0.0, batch_sizes=(1, 8), warmup=3, runs=20):
    clock, log = Clock(drift), []
    engines = {name: FakeEngine(clock, of, log, name) for name, of in seconds.items()}
    found = race(
        engines,
        IMAGES,
        batch_sizes=batch_sizes,
        warmup=warmup,
        runs=runs,
        baseline="eager",
        clock=clock,
    )
    assert found.faults == {}
    return found.timings, engines, log


def test_every_size_is_timed_on_the_device_and_from_the_host():
    found, engines, _ = run({"eager": lambda n, i: 0.01 * n, "onnx": lambda n, i: 0.005 * n})
    keys = [("engine", 1), ("engine", 8), ("end_to_end", 1), ("end_to_end", 8)]
    for timings in found.values():
        assert [(t.scope, t.batch_size) for t in timings] == keys
        assert {t.calls for t in timings} == {20}
    assert {len(batch) for batch in engines["onnx"].batches} == {1, 8}
    eight = found["onnx"][1]
    assert eight.p50_ms == pytest.approx(40)
    assert eight.samples_per_second == pytest.approx(200)
    assert eight.time_ratio.ratio == pytest.approx(0.5)
    assert found["eager"][1].time_ratio is None


def test_batches_are_real_images_repeated_if_need_be():
    _, engines, _ = run({"eager": lambda n, i: 1.0})
    batch = engines["eager"].batches[-1]
    assert torch.equal(batch, torch.cat([IMAGES, IMAGES])[:8])


def test_warm_up_does_not_count():
    """The first calls of a size take a hundred times as long."""
    seconds = {"eager": lambda n, i: 1.0 if i <= 4 else 0.01}
    found, _, _ = run(seconds, batch_sizes=(4,), warmup=4)
    assert found["eager"][0].p99_ms == pytest.approx(10)


def test_percentiles_are_those_of_single_calls():
    seconds = {"eager": lambda n, i: 0.1 if i % 20 == 0 else 0.01}
    found, _, _ = run(seconds, batch_sizes=(4,), runs=200, warmup=0)
    timing = found["eager"][0]
    assert timing.p50_ms == pytest.approx(10)
    assert timing.p99_ms == pytest.approx(100)


def test_engines_take_turns_and_every_second_round_runs_backwards():
    _, _, log = run(dict.fromkeys("ab", lambda n, i: 1.0) | {"eager": lambda n, i: 1.0}, warmup=0)
    calls = log[: 3 * (20 + 10)]  # with one call after each change that does not count
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    rounds = [calls[i * 9 : (i + 1) * 9 : 3] for i in range(10)]
    assert len(turns) < 30  # the last of a round is the first of the next
    for first, second in zip(rounds[::2], rounds[1::2], strict=True):
        assert sorted(first) == ["a", "b", "eager"]
        assert second == first[::-1]


def test_a_drift_of_the_machine_is_not_taken_for_a_difference():
    same = {"eager": lambda n, i: 0.01, "onnx": lambda n, i: 0.01}
    found, _, _ = run(same, drift=0.003, batch_sizes=(4,), runs=50)
    ratio = found["onnx"][0].time_ratio
    assert ratio.low < 1 < ratio.high
    assert ratio.ratio == pytest.approx(1, abs=0.01)
    assert found["onnx"][0].samples_per_second_low < found["onnx"][0].samples_per_second_high


def test_calls_are_dealt_out_when_they_are_no_multiple_of_the_rounds():
    found, _, _ = run({"eager": lambda n, i: 0.01}, batch_sizes=(1,), runs=13, warmup=0)
    assert found["eager"][0].calls == 13
    found, _, _ = run({"eager": lambda n, i: 0.01}, batch_sizes=(1,), runs=2, warmup=0)
    assert found["eager"][0].calls == 2


def test_an_engine_that_fails_is_named_and_the_others_are_timed():
    def hungry(count, call):
        if count == 8:
            raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate 2 GiB")
        return 0.02

    clock = Clock()
    engines = {
        "eager": FakeEngine(clock, lambda n, i: 0.01, [], "eager"),
        "onnx": FakeEngine(clock, hungry, [], "onnx"),
    }
    found = race(
        engines, IMAGES, batch_sizes=(1, 8), warmup=0, runs=4, baseline="eager", clock=clock
    )
    assert [(t.scope, t.batch_size) for t in found.timings["onnx"]] == [
        ("engine", 1),
        ("end_to_end", 1),
    ]
    assert len(found.timings["eager"]) == 4
    assert list(found.faults) == ["onnx"]
    first, second = found.faults["onnx"]
    assert (first.scope, second.scope, first.is_memory) == ("engine", "end_to_end", True)
    assert str(second) == (
        "not timed at a batch of 8 (end to end): OutOfMemoryError: CUDA out of memory"
    )


def test_without_the_baseline_there_are_times_and_no_ratios():
    def broken(count, call):
        raise RuntimeError("a kernel is missing")

    clock = Clock()
    engines = {
        "eager": FakeEngine(clock, broken, [], "eager"),
        "onnx": FakeEngine(clock, lambda n, i: 0.02, [], "onnx"),
    }
    found = race(engines, IMAGES, batch_sizes=(4,), warmup=0, runs=4, baseline="eager", clock=clock)
    assert found.timings["eager"] == ()
    assert {t.time_ratio for t in found.timings["onnx"]} == {None}
    assert not found.faults["eager"][0].is_memory
