"""Gradients of a window whose backward pass fails in its middle, and the memory they take."""

import lightning.pytorch as L
import pytest
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gpuopt.callbacks import OomRecovery
from gpuopt.memory import live_bytes
from tests.callbacks.memory_faults import Limits, Net, _Fuse, difference, fit

OPTIONS = {"validates": False, "max_epochs": 1}


class Wide(Net):
    """Weights that take much more than the activations of a batch."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        layers = [nn.Linear(128, 128) for _ in range(4)]
        self.after = nn.Sequential(nn.Linear(12, 128), *layers, nn.Linear(128, 8), self.after[1])


@pytest.fixture(autouse=True)
def _with_data(monkeypatch):
    """`LiveBytes` leaves out numbers of some operations, which the meta device has not."""
    monkeypatch.setattr(live_bytes, "SHAPES_ONLY", {})


def peak_bytes(*callbacks, **options):
    with live_bytes.LiveBytes(()) as live:
        fit(*callbacks, kind=Wide, accumulate_grad_batches=3, **OPTIONS, **options)
    return live.peak_bytes


def test_a_window_holds_one_set_of_gradients_as_without_recovery():
    net, _ = fit(kind=Wide, **OPTIONS)
    weights = sum(p.nbytes for p in net.parameters())
    more = peak_bytes(OomRecovery()) - peak_bytes()
    assert more < 0.05 * weights


def test_with_batch_norm_it_holds_the_pass_beside_it():
    """What `gpuopt.memory` predicts for such networks."""
    net, _ = fit(kind=Wide, norm="batch", **OPTIONS)
    weights = sum(p.nbytes for p in net.parameters())
    more = peak_bytes(OomRecovery(), norm="batch") - peak_bytes(norm="batch")
    assert 0.5 * weights < more < 1.2 * weights


def test_parts_of_a_batch_are_summed_in_place():
    """The window's, those of the parts so far, and nothing for the last part."""

    def split(size):
        recovery = OomRecovery()
        recovery.steps.sizes["training"].limit = size
        return recovery

    net, _ = fit(kind=Wide, **OPTIONS)
    weights = sum(p.nbytes for p in net.parameters())
    assert peak_bytes(split(5)) - peak_bytes() < 1.2 * weights


class SizeFrom(L.Callback):
    """Takes smaller parts from one batch on, as a run does after a failure there."""

    def __init__(self, recovery, batch, size):
        self.recovery, self.batch, self.size = recovery, batch, size

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            self.recovery.steps.sizes["training"].limit = self.size


class DropsByItself(Net):
    """Random numbers that no layer tells of."""

    def loss(self, batch):
        x = functional.dropout(batch[0], 0.3, self.training)
        logits = self(x)
        return functional.cross_entropy(logits, batch[1]), logits


@pytest.mark.parametrize("options", [{"norm": "batch"}, {"dropout": 0.3}, {"kind": DropsByItself}])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_that_depend_on_the_size_are_not_mixed(options, batch):
    options = {"accumulate_grad_batches": 3, **OPTIONS, **options}
    recovery = OomRecovery()
    run = fit(recovery, limits=Limits(backward=5, at=batch), **options)
    assert [event["phase"] for event in recovery.events] == ["backward pass"]
    reference = OomRecovery()
    same = fit(SizeFrom(reference, batch, 5), reference, **options)
    assert difference(same, run) == 0.0


class Shared(Net):
    """A layer that goes through its backward pass twice, by reentrant checkpoints."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.layer = nn.Linear(12, 12)

    def forward(self, x):
        hidden = self.again(self.before(x))
        return self.head(self.after(self.again(_Fuse.apply(hidden, self.limits))))

    def again(self, hidden):
        if not hidden.requires_grad:
            return self.layer(hidden)
        return checkpoint(self.layer, hidden, use_reentrant=True)


def test_a_gradient_that_was_added_to_once_of_twice_is_not_taken_for_complete():
    options = {"kind": Shared, "accumulate_grad_batches": 3, **OPTIONS}
    recovery = OomRecovery()
    run = fit(recovery, limits=Limits(backward=5, at=1), **options)
    assert recovery.events
    assert difference(fit(**options), run) < 1e-12


class Partly(Net):
    """A head of its own for each batch: its gradient is new in the middle of a window."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(5))

    def training_step(self, batch, batch_idx):
        self.head = self.heads[batch_idx]
        return super().training_step(batch, batch_idx)


def test_a_gradient_that_a_failed_pass_made_is_kept():
    options = {"kind": Partly, "accumulate_grad_batches": 3, **OPTIONS}
    run = fit(OomRecovery(), limits=Limits(backward=5, at=1), **options)
    assert difference(fit(**options), run) < 1e-12
