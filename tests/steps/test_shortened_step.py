import contextlib
import itertools

import lightning.pytorch as L
import pytest
import torch

from gpuopt.measure.step_parts import LADDER
from gpuopt.steps.shortened_step import OMITTED, ShortenedStep
from tests.callbacks.timed_training import parts_of, trainer_with

ALL = ("preparation", "callbacks", "optimizer", "backward", "forward")


class Shortens(L.Callback):
    def __init__(self, names):
        self.names, self.outputs, self.aside = names, [], 0
        self.step = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.step = ShortenedStep(trainer, pl_module, self, self._stands_aside)
            self.step.leave_out(())
        if batch_idx == 1:
            self.before = {n: v.clone() for n, v in pl_module.state_dict().items()}
            pl_module.zero_grad()
            self.step.leave_out(self.names)
        if batch_idx == 3:
            self.after = {n: v.clone() for n, v in pl_module.state_dict().items()}
            self.has_gradient = pl_module.net[0].weight.grad is not None
            self.clock_s = pl_module.clock.now_s
            self.step.restore()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.outputs.append(outputs["loss"])

    @contextlib.contextmanager
    def _stands_aside(self):
        self.aside += 1
        yield
        self.aside += 1


@pytest.fixture
def shortened(request):
    module, loader, spends, _ = parts_of({"callback_s": 1000.0})
    shortens = Shortens(request.param)
    trainer = trainer_with(spends, shortens)
    trainer.fit(module, loader)
    return shortens, trainer, module


def test_each_rung_leaves_out_what_the_one_before_does():
    sizes = [len(OMITTED[rung]) for rung in LADDER]
    assert sizes == [0, 0, 0, 1, 2, 3, 4, 5]
    assert all(set(OMITTED[a]) <= set(OMITTED[b]) for a, b in itertools.pairwise(LADDER))
    assert set(OMITTED[LADDER[-1]]) == set(ALL)


@pytest.mark.parametrize("shortened", [()], indirect=True)
def test_nothing_left_out_is_a_whole_step(shortened):
    shortens, _, _ = shortened
    assert not torch.equal(shortens.before["net.0.weight"], shortens.after["net.0.weight"])
    assert shortens.has_gradient


@pytest.mark.parametrize("shortened", [("optimizer",)], indirect=True)
def test_without_the_optimizer_weights_stay_and_gradients_come(shortened):
    shortens, _, _ = shortened
    assert torch.equal(shortens.before["net.0.weight"], shortens.after["net.0.weight"])
    name = "net.1.running_mean"
    assert not torch.equal(shortens.before[name], shortens.after[name])
    assert shortens.has_gradient


@pytest.mark.parametrize("shortened", [("optimizer", "backward")], indirect=True)
def test_without_the_backward_pass_there_are_no_gradients(shortened):
    shortens, _, _ = shortened
    assert not shortens.has_gradient
    assert shortens.outputs[2] is not None


@pytest.mark.parametrize("shortened", [("optimizer", "backward", "forward")], indirect=True)
def test_without_the_forward_pass_a_step_returns_what_it_did_before(shortened):
    shortens, _, _ = shortened
    for name, value in shortens.before.items():
        assert torch.equal(value, shortens.after[name]), name
    assert shortens.outputs[1] == shortens.outputs[2] == shortens.outputs[0]
    assert not shortens.outputs[2].requires_grad


@pytest.mark.parametrize("shortened", [("callbacks",)], indirect=True)
def test_without_callbacks_only_one_is_called(shortened):
    shortens, trainer, _ = shortened
    assert shortens.clock_s < 2000  # the other one spent its time on the first step alone
    assert shortens.aside == 2
    assert len(trainer.callbacks) >= 2


@pytest.mark.parametrize("shortened", [ALL], indirect=True)
def test_everything_is_put_back(shortened):
    _, trainer, module = shortened
    names = {"training_step", "backward", "optimizer_step", "batch_to_device"}
    assert not names & set(vars(trainer.strategy))
    assert "_on_before_batch_transfer" not in vars(module)
    assert module.net[0].weight.grad is not None
