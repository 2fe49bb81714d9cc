"""Hooks between a forward pass and its backward pass count once, whether that fails or not."""

import logging
import random

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from torchmetrics import MeanMetric, SumMetric

from gpuopt.callbacks import NonFiniteLoss, OomRecovery
from gpuopt.steps.hook_changes import HookChanges
from gpuopt.steps.step_state import StateKeeper
from tests.callbacks.memory_faults import Limits, Net, difference, fit


class Hooked(Net):
    """A hook that changes buffers, metrics and logged values, and draws random numbers."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register_buffer("counted", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))
        self.register_buffer("scale", torch.ones(1, dtype=torch.float64))
        self.own, self.both = SumMetric(), MeanMetric()
        self.drawn, self.norms = [], []

    def training_step(self, batch, batch_idx):
        self.both.update(1.0, len(batch[0]))
        batch = (batch[0] * self.scale, batch[1])
        return super().training_step(batch, batch_idx)

    def on_before_backward(self, loss):
        self.counted += 1
        self.replaced = self.replaced + 2
        self.scale *= 1.01  # for the batches to come
        self.own.update(3.0)
        self.both.update(5.0, 10)
        self.log("hook/loss", loss.detach(), on_step=True, on_epoch=True)
        self.log("hook/own", self.own, on_step=False, on_epoch=True)
        self.drawn += [random.random(), float(np.random.random()), float(torch.rand(()))]

    def on_before_zero_grad(self, optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.norms += [-1.0 if g is None else float(g.norm()) for g in gradients]


class Noting(L.Callback):
    """A callback with a state of its own, that logs as well."""

    def __init__(self):
        self.calls = {"zero": 0, "before": 0, "after": 0}

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.calls["zero"] += 1

    def on_before_backward(self, trainer, pl_module, loss):
        self.calls["before"] += 1
        pl_module.log("noted", float(self.calls["before"]))
        pl_module.counted += 10

    def on_after_backward(self, trainer, pl_module):
        self.calls["after"] += 1


def seeded(*callbacks, **options):
    random.seed(4)
    np.random.seed(4)
    return fit(*callbacks, kind=Hooked, **options)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize(
    "limits", [{"backward": 3}, {"backward": 3, "at": 1}, {"backward": 3, "forward": 5}]
)
def test_what_hooks_did_is_that_of_an_undisturbed_run(accumulate, limits):
    notes, recovery = (Noting(), Noting()), OomRecovery()
    plain = seeded(notes[0], accumulate_grad_batches=accumulate)
    then = torch.get_rng_state()
    run = seeded(recovery, notes[1], limits=Limits(**limits), accumulate_grad_batches=accumulate)
    assert recovery.events
    assert difference(plain, run) < 1e-12
    assert run[0].drawn == plain[0].drawn
    assert torch.equal(torch.get_rng_state(), then)
    assert run[0].both.compute() == plain[0].both.compute()
    assert run[1].callback_metrics["hook/own"] == 15  # of 5 batches
    assert notes[0].calls == notes[1].calls
    assert run[0].norms == pytest.approx(plain[0].norms, rel=1e-9)


def test_of_a_network_with_batch_norm_statistics_are_those_of_the_smaller_size():
    options = {"kind": Hooked, "norm": "batch"}
    recovery = OomRecovery()
    recovery.steps.sizes["training"].limit = 5
    expected = fit(recovery, **options)
    run = fit(OomRecovery(), limits=Limits(backward=5), **options)
    assert difference(expected, run) == 0.0


class Follows(Net):
    """A teacher that follows the weights, moved before the backward pass."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.teacher = torch.nn.Linear(8, 3).requires_grad_(False)

    def on_before_backward(self, loss):
        with torch.no_grad():
            self.teacher.weight.lerp_(self.head.weight, 0.1)


def test_weights_that_hooks_change_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "gpuopt"):
        fit(Noting(), OomRecovery(), kind=type("Both", (Follows, Hooked), {}))
        assert "changed weights" not in caplog.text
        fit(OomRecovery(), limits=Limits(backward=3), kind=Follows)
    assert caplog.text.count("on_before_backward changed weights (teacher.weight) after") == 1


@pytest.mark.parametrize(
    ("callbacks", "are_there", "see_gradients"),
    [([], False, False), ([NonFiniteLoss()], False, False), ([Noting()], True, True)],
)
def test_nothing_is_kept_where_no_hook_changes_anything(callbacks, are_there, see_gradients):
    module, trainer = Net(), L.Trainer(callbacks=callbacks, logger=False)
    hooks = HookChanges(trainer, module, StateKeeper(trainer, module))
    assert (hooks.are_there, hooks.see_last_gradients) == (are_there, see_gradients)
