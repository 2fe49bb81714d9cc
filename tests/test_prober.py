"""Probing with the real module, optimizer and Trainer on the CPU; only the memory is simulated."""

import contextlib
import math
import re
import time
from dataclasses import replace

import pytest
import torch

from gpuopt.config import compose_settings
from gpuopt.data.augmentation import AUGMENTATION_UNIFORMS
from gpuopt.errors import FaultError
from gpuopt.find_answer import make_request
from gpuopt.finding.probing_process import measure_in_process
from gpuopt.finding.synthetic_images import SyntheticImages
from gpuopt.hardware import Gpu
from gpuopt.memory import FixedMemory, Line, MemoryEstimate
from gpuopt.model import Classifier
from gpuopt.prober import Prober
from gpuopt.schema import Compile, to_find_config
from gpuopt.tta import TestTimeAugmentation

MIB = 2**20
TINY = (
    "data=digits",
    "model=timm",
    "model.name=test_vit",
    "image_size=32",
    "global_batch_size=64",
    "precision=fp32",
    "max_batch_size=24",
)
CARD = Gpu(name="Simulated", memory_mib=4096, headroom_ratio=0.1, precision="fp32", image_size=32)


PRIOR = MemoryEstimate(FixedMemory(parameters=1000 * MIB), (Line(0, 200 * MIB),), 32)


class SimulatedMeter:
    """A device of which each sample takes 200 MiB; `fits` samples are the most within 90 %."""

    def __init__(self, fits=14):
        self._capacity = int(self._needed(fits + 0.5) / 0.9)
        self.seen = []
        self._largest = 0

    def _needed(self, samples):
        return int((1000 + 200 * samples) * MIB)

    def saw(self, samples):
        self.seen.append(samples)
        self._largest = max(self._largest, samples)
        if self._needed(samples) > self._capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. (simulated)")

    def capacity_bytes(self):
        return self._capacity

    def start(self):
        self._largest = 0

    def peak_bytes(self):
        return self._needed(self._largest)

    def resident_bytes(self):
        return self._needed(0)

    def clock_s(self):
        return time.perf_counter()

    def capped(self):
        return contextlib.nullcontext()


@pytest.fixture(scope="module")
def settings():
    return compose_settings("find_batch_size", [*TINY])


@pytest.fixture
def probe(monkeypatch, settings):
    """Probe with settings; returns the answer, the snapshot and the meter."""

    def run(fits=14, **values):
        config = replace(to_find_config(settings), **values)
        request = make_request(config)
        meter, forward, shown = SimulatedMeter(fits), Classifier.forward, []
        monkeypatch.setattr("gpuopt.finding.measured._prior", lambda *given: PRIOR)

        def seen(self, images):
            meter.saw(len(images))
            return forward(self, images)

        monkeypatch.setattr(Classifier, "forward", seen)
        device = torch.device("cpu")
        prober = Prober(config, request, CARD, meter, device, "simulated", shown.append)
        answer, snapshot = prober.answer()
        assert [p.batch_size for p in shown] == [p.batch_size for p in answer.probes]
        return answer, snapshot, meter

    return run


@pytest.mark.parametrize(
    ("mode", "purpose", "compiled"),
    [
        ("max-autotune", "train", [("max-autotune", True)]),
        ("reduce-overhead", "train", [("default", True)]),
        ("default", "predict", []),
    ],
)
def test_probes_are_compiled_as_training_compiles_where_micro_batches_accumulate(
    probe, settings, monkeypatch, mode, purpose, compiled
):
    asked = []
    monkeypatch.setattr(
        "gpuopt.prober.compile_backbone",
        lambda model, mode, backend, *, accumulates=False: asked.append((mode, accumulates)),
    )
    probe(compile=Compile(mode=mode), purpose=purpose)
    assert asked == compiled


def test_training_is_measured_with_real_steps_and_a_validation(probe, settings):
    averages = {**settings["callbacks"]["moving_average"], "enabled": True}
    answer, snapshot, meter = probe(
        data={**settings["data"], "mixup_alpha": 0.2},
        callbacks={**settings["callbacks"], "moving_average": averages},
        memory_profile="profile.json",
    )
    assert answer.largest in (13, 14)
    assert (answer.evidence, answer.headroom_ratio) == ("measured", 0.1)
    assert answer.free_bytes == meter.capacity_bytes()
    assert len(answer.probes) <= 4
    assert all(p.fits and p.step_ms > 0 for p in answer.probes)
    assert max(p.allocated_bytes for p in answer.probes) <= answer.budget_bytes
    assert {p.with_context_bytes for p in answer.probes} == {answer.context_bytes} == {None}
    assert math.ceil(64 / answer.chosen) >= math.ceil(64 / 14)
    assert answer.chosen <= 14
    assert answer.knee <= 14
    assert set(answer.levels) >= {"none", "full"}
    assert "no step was run on a CUDA device" in snapshot["absent"]
    assert max(meter.seen) <= 14
    for measured in answer.probes:
        assert meter.seen.count(measured.batch_size) == 5  # four steps and a validation


@pytest.mark.parametrize("purpose", ["predict", "tta"])
def test_prediction_is_measured_with_its_views(probe, purpose):
    views = TestTimeAugmentation(name="two", views=[{}, {"rotate": 90}])
    answer, snapshot, meter = probe(purpose=purpose, tta=views)
    assert answer.largest in (13, 14)
    assert answer.chosen == answer.largest
    passes = {"predict": 3, "tta": 3 * 2}[purpose]
    assert meter.seen.count(answer.probes[-1].batch_size) == passes
    assert answer.levels == {}
    assert snapshot == {"absent": "no profile was asked for"}


def test_prediction_recomputes_nothing_whatever_training_is_to_do(probe, settings):
    answer, _, _ = probe(purpose="predict", model={**settings["model"], "checkpointing": "auto"})
    assert answer.largest in (13, 14)


@pytest.mark.parametrize("purpose", ["train", "predict"])
def test_running_out_of_memory_is_an_answer(probe, monkeypatch, purpose):
    flat = MemoryEstimate(FixedMemory(MIB), (Line(0, MIB),), 32)  # far from the truth
    monkeypatch.setitem(globals(), "PRIOR", flat)
    answer, _, _ = probe(purpose=purpose)
    failed = [p for p in answer.probes if p.allocated_bytes is None]
    assert failed
    assert not any(p.fits for p in failed)
    assert f"{len(failed)} out of memory" in answer.why
    assert 7 <= answer.largest <= 14


@pytest.mark.parametrize("purpose", ["train", "predict"])
@pytest.mark.parametrize("aggressive", [False, True])
def test_a_card_on_which_nothing_fits_is_an_answer(probe, purpose, aggressive):
    answer, snapshot, _ = probe(
        fits=-1, purpose=purpose, aggressive=aggressive, memory_profile="profile.json"
    )
    assert (answer.largest, answer.chosen, answer.knee) == (0, 0, None)
    assert not any(p.fits for p in answer.probes)
    assert min(p.batch_size for p in answer.probes) == 1
    assert re.search(r"not one sample fits: 1 (ran out of memory|took \S+ GiB), ", answer.why)
    assert "not one sample fits" in snapshot["absent"]


def test_a_minimum_that_does_not_fit_does_not_keep_from_finding_what_does(probe):
    answer, _, _ = probe(purpose="predict", min_batch_size=20)
    assert answer.largest in (13, 14)


def test_aggressive_takes_the_smallest_headroom_that_a_probe_confirms(probe):
    answer, _, _ = probe(aggressive=True)
    assert answer.headroom_ratio == 0.01
    assert answer.largest > 14  # with the usual headroom
    assert answer.largest in [p.batch_size for p in answer.probes if p.fits]


def test_levels_are_predicted_within_what_was_measured_to_be_free(probe, monkeypatch):
    context = 300 * MIB
    prior = replace(PRIOR, fixed=replace(PRIOR.fixed, context=context))
    monkeypatch.setitem(globals(), "PRIOR", prior)
    monkeypatch.setattr(
        "gpuopt.finding.measured.predict_levels", lambda request, card, budget: {"none": budget}
    )
    answer, _, _ = probe()
    assert answer.levels == {"none": answer.budget_bytes + context}


def test_several_ranks_keep_room_for_the_buckets_of_their_gradients(probe):
    answer, _, meter = probe(gpu_ids=[0, 1], max_batch_size=2)
    gradients = sum(4 * p.numel() for p in Classifier("test_vit", 1000).parameters())
    assert answer.free_bytes == meter.capacity_bytes() - gradients


@pytest.mark.parametrize("stage", ["train", "validate"])
@pytest.mark.parametrize("mixup_alpha", [0.0, 0.5])
def test_synthetic_batches_are_shaped_like_real_ones(stage, mixup_alpha):
    data = SyntheticImages(classes=10, image_size=24, mixup_alpha=mixup_alpha)
    batch = data.batch(11, stage)
    assert batch.images.shape == (11, 3, 24, 24)
    assert batch.images.dtype == torch.uint8
    assert batch.uniforms.shape == (11, AUGMENTATION_UNIFORMS)
    mixed = stage == "train" and mixup_alpha > 0
    assert len(batch.partner_images) == (11 if mixed else 0)
    assert math.isclose(float(batch.weights.sum()), 1.0 if stage == "train" else 11.0, rel_tol=1e-6)
    data.setup()
    loader = data.train_dataloader() if stage == "train" else data.val_dataloader()
    real = next(iter(loader))
    assert [part.dtype for part in real] == [part.dtype for part in batch]
    assert [part.shape[1:] for part in real] == [part.shape[1:] for part in batch]
    assert data.augment(batch).images.dtype == torch.float32


@pytest.mark.slow
def test_a_device_that_torch_cannot_use_is_said_by_the_process_itself(settings):
    if torch.cuda.is_available():
        pytest.skip("PyTorch can use the device of this machine")
    order = {"settings": settings, "device": 0, "checkpointing": "none", "offload": False}
    order |= {"image_size": 32, "reason": "a test"}
    with pytest.raises(FaultError, match="device 0: the driver has it"):
        measure_in_process(order)


@pytest.mark.gpu
def test_a_card_is_measured_by_the_whole_command(tmp_path):
    import json
    import subprocess
    import sys

    done = subprocess.run(
        [
            *(sys.executable, "-m", "gpuopt.find_batch_size", "model=resnet50", "image_size=128"),
            *("gpu.memory_limit_mib=4096", "memory_profile=profile.json", "format=json"),
            *("global_batch_size=256", f"cache_dir={tmp_path}/cache"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    (card,) = answer["cards"]
    assert (card["evidence"], len(card["probes"]) <= 4) == ("measured", True)
    assert all(probe["allocated_bytes"] <= 4096 * MIB for probe in card["probes"])
    assert 0 < answer["choice"]["value"] <= answer["largest"]
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["cards"][0]["allocator_snapshot"]["device_traces"]
