import copy
import itertools

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from benchmarks.peer_loops import BareLoop, NormalisedNetwork, TimmLoop
from benchmarks.step_setting import (
    MemoryImages,
    StepSetting,
    draw_bank,
    endless_batches,
    make_classifier,
)
from benchmarks.step_time import step_ratios, step_rows
from benchmarks.trainer_segments import GPUOPT, Design, Interleaver, MeasuredError, time_fit

SETTING = StepSetting("test_vit", 32, 4, 8, "fp32", "cpu")


class FakeTrainer:
    accumulate_grad_batches = 2


class FakeClock:
    def __init__(self):
        self.now_s = 0.0
        self.synchronised = 0

    def __call__(self):
        return self.now_s

    def synchronize(self):
        self.synchronised += 1


def drive(design, trainer_s, peer_s):
    """Let an interleaver lead a trainer and a peer of known speeds."""
    clock, steps = FakeClock(), {"trainer": 0, "peer": 0}

    def peer():
        clock.now_s += peer_s
        steps["peer"] += 1

    interleaver = Interleaver({"peer": peer}, design, clock.synchronize, clock)

    def train():
        for batch_idx in itertools.count():
            interleaver.on_train_batch_start(FakeTrainer(), None, None, batch_idx)
            clock.now_s += trainer_s / FakeTrainer.accumulate_grad_batches
            steps["trainer"] += batch_idx % 2

    with pytest.raises(MeasuredError):
        train()
    return interleaver.step_s, steps, clock


def test_segments_hold_exactly_the_steps_of_their_contestant():
    design = Design(rounds=3, steps=4, warmup_steps=1, prelude_steps=2)
    step_s, steps, clock = drive(design, trainer_s=0.011, peer_s=0.010)
    assert step_s[GPUOPT] == pytest.approx([0.011] * 3)
    assert step_s["peer"] == pytest.approx([0.010] * 3)
    assert steps == {"trainer": 2 + 3 * 5, "peer": 2 + 3 * 5}
    assert steps["trainer"] == design.trainer_steps - 1
    assert clock.synchronised == 2 * 2 * 3  # both edges of both contestants' segments


def test_everybody_does_the_same_work_in_a_real_fit(tmp_path):
    design = Design(rounds=2, steps=2, warmup_steps=1, prelude_steps=1)
    seen = {"samples": 0, "validations": 0, "peer": 0}

    class Counting(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen["samples"] += len(batch.targets)
            seen["steps"] = trainer.global_step

        def on_validation_start(self, trainer, pl_module):
            seen["validations"] += 1

    def peer():
        seen["peer"] += 1

    model = make_classifier(SETTING, design.trainer_steps)
    before = copy.deepcopy(model.backbone.state_dict())
    data = MemoryImages(draw_bank(32), SETTING, design.trainer_steps)
    step_s = time_fit(
        SETTING, design, model, data, tmp_path, {"peer": peer}, callbacks=[Counting()]
    )
    assert {name: len(values) for name, values in step_s.items()} == {GPUOPT: 2, "peer": 2}
    assert seen["peer"] == seen["steps"] == 1 + 2 * 3
    assert seen["samples"] == seen["steps"] * SETTING.global_batch_size
    assert seen["validations"] == 0
    assert not list(tmp_path.glob("*.ckpt"))
    after = model.backbone.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_an_epoch_that_is_too_short_is_an_error(tmp_path):
    design = Design(rounds=2, steps=2, warmup_steps=0, prelude_steps=1)
    model = make_classifier(SETTING, 3)
    with pytest.raises(RuntimeError, match="too short"):
        time_fit(SETTING, design, model, MemoryImages(draw_bank(32), SETTING, 3), tmp_path)


def step_once(kind, network, images, targets, micro_batch_size):
    """Do one step on the same eight images; return its gradient and the changed weights."""
    setting = StepSetting("test_vit", 32, micro_batch_size, 8, "fp32", "cpu")
    ones = torch.ones(1, 3, 1, 1)
    model = NormalisedNetwork(copy.deepcopy(network), 127 * ones, 60 * ones, False)
    batches = zip(images.split(micro_batch_size), targets.split(micro_batch_size), strict=True)
    peer = (
        BareLoop(model, batches, setting, 10)
        if kind == "bare"
        else TimmLoop(model, batches, setting)
    )
    gradients = []
    next(model.parameters()).register_hook(lambda gradient: gradients.append(gradient.clone()))
    peer.step()
    with pytest.raises(StopIteration):
        next(batches)  # all images were used, and each once
    assert len(gradients) == 8 // micro_batch_size
    return sum(gradients), flat(model)


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_peers_do_the_same_step_whatever_the_micro_batch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 36, 17))
    images, targets = torch.rand(8, 3, 8, 8) * 255, torch.arange(8)
    gradient, weights = step_once("bare", network, images, targets, 8)
    assert not torch.allclose(weights, flat(network), atol=1e-5)
    for kind, micro_batch_size in (("bare", 4), ("timm", 8), ("timm", 2)):
        other = step_once(kind, network, images, targets, micro_batch_size)
        # AdamW hardly sees the scale of a gradient, so the gradient is compared as well.
        torch.testing.assert_close(other[0], gradient, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(other[1], weights, atol=2e-5, rtol=0)


def test_the_peers_get_batches_like_gpuopts():
    bank = draw_bank(32)
    images, targets = next(endless_batches(bank, SETTING))
    data = MemoryImages(bank, SETTING, 2)
    batch = data.augment(next(iter(data.train_dataloader())))
    assert (images.shape, images.dtype) == (batch.images.shape, batch.images.dtype)
    assert (targets.shape, targets.dtype) == (batch.targets.shape, batch.targets.dtype)
    assert data.train_size == 2 * SETTING.global_batch_size


def test_the_log_interval_is_that_of_the_default_data_set():
    assert StepSetting("m", 128, 32, 32, "fp32", "cpu").log_every_n_steps == 4
    assert StepSetting("m", 384, 64, 256, "bf16", "cuda").log_every_n_steps == 1


def test_figures_name_the_ratio_that_has_a_goal():
    step_s = {
        GPUOPT: [0.0101, 0.0102, 0.0101, 0.0103, 0.0101],
        "bare loop": [0.0100, 0.0101, 0.0100, 0.0102, 0.0100],
        "timm loop": [0.0110, 0.0111, 0.0110, 0.0112, 0.0110],
        "bare loop again": [0.0100, 0.0101, 0.0100, 0.0102, 0.0100],
    }
    rows = {row.measure: row for row in step_rows(step_s, SETTING)}
    ratio = rows["step, gpuopt / bare loop"]
    assert ratio.low <= ratio.value <= ratio.high
    assert (ratio.goal, ratio.verdict) == ("<= 1.05", "met")
    assert rows["step, gpuopt / timm loop"].value < 1
    assert rows["step, gpuopt / timm loop"].goal is None
    assert rows["step, bare loop again / bare loop"].value == pytest.approx(1)
    assert rows["step, gpuopt"].value == pytest.approx(10.1)
    assert set(step_ratios(step_s)) == {name.removeprefix("step, ") for name in rows if "/" in name}
