"""The factor before a loss, read from the graph, against the one that autograd computes."""

from types import SimpleNamespace

import pytest
import torch

from gpuopt.callbacks import OomRecovery
from gpuopt.steps.loss_scale import LossScale
from tests.callbacks.memory_faults import Net, difference, fit

FACTORS = {
    "1": lambda loss: loss / 1,
    "3": lambda loss: loss / 3,
    "a fraction": lambda loss: loss / 0.7,
    "a tensor": lambda loss: loss / torch.tensor(3.0),
    "a scaler and 3": lambda loss: (loss / 3) * torch.tensor(1024.0),
    "from the left": lambda loss: torch.tensor(1024.0) * (loss / 3),
    "something else": lambda loss: (loss / 3).exp(),
    "itself": lambda loss: loss * loss,
    "nothing": lambda loss: loss,
}


def scale_of(make, dtype=torch.float32, scale=None, *, is_untouched=True):
    cut = torch.tensor(1.7, dtype=dtype).requires_grad_()
    scale = scale or LossScale(SimpleNamespace())
    return scale.arrived(cut, make(cut), is_untouched=is_untouched)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FACTORS)
def test_it_is_what_autograd_computes(name, dtype):
    known = LossScale(SimpleNamespace())
    for make in (FACTORS[name], FACTORS["3"], FACTORS[name]):  # what is remembered changes
        cut = torch.tensor(1.7, dtype=dtype).requires_grad_()
        (expected,) = torch.autograd.grad(make(cut), cut)
        found = scale_of(make, dtype, known)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
        assert not found.requires_grad


def test_a_division_is_read_without_a_backward_pass(monkeypatch):
    monkeypatch.setattr(torch.autograd, "backward", None)
    known = LossScale(SimpleNamespace())
    assert known.is_one(scale_of(FACTORS["1"], scale=known))
    third = scale_of(FACTORS["3"], scale=known)
    assert not known.is_one(third)
    assert scale_of(FACTORS["3"], scale=known) is third
    assert scale_of(FACTORS["a scaler and 3"], scale=known) == torch.tensor(1024.0) / 3
    assert known.is_one(scale_of(FACTORS["1"], scale=known))


def test_hooks_of_a_user_are_called():
    def doubled(cut):
        loss = cut / 1
        loss.register_hook(lambda gradient: 2 * gradient)
        return loss

    def doubled_before(cut):
        loss = cut / 1
        loss.grad_fn.register_prehook(lambda gradients: (2 * gradients[0],))
        return loss

    assert scale_of(doubled) == 2
    assert scale_of(doubled_before, is_untouched=False) == 2


def test_a_loss_from_elsewhere_is_told():
    other = torch.tensor(2.0).requires_grad_()
    assert scale_of(lambda _: other / 1) is None


class WritesIntoIt(Net):
    """Keeps its loss, and has a backward pass that writes into the one it is handed."""

    def loss(self, batch):
        self.kept, logits = super().loss(batch)
        return self.kept, logits

    def backward(self, loss, *args, **options):
        super().backward(loss, *args, **options)
        loss.detach().zero_()
        assert self.kept != 0


def test_a_backward_of_the_module_is_not_handed_the_loss_that_the_module_keeps():
    options = {"kind": WritesIntoIt, "max_epochs": 1, "validates": False}
    assert difference(fit(**options), fit(OomRecovery(), **options)) == 0.0
