"""Operations are counted from the real forward pass, which is only watched."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gpuopt.measure.roofline import forward_flops
from gpuopt.steps.forward_flops import ForwardWatch, is_compiled


class Root(nn.Module):
    """Calls its parts itself, one of them twice."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.head = nn.Linear(16, 3)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.head(self.body(x)) + self.head(2 * self.body[0](x))


def watched(module, *calls):
    watch = ForwardWatch(module)
    for call in calls:
        call()
    watch.stop()
    return watch


def test_every_outermost_call_is_counted_once():
    root = Root()
    x = torch.randn(5, 8)
    expected = 2 * (2 * 5 * 8 * 16 + 2 * 5 * 16 * 3)
    assert watched(root, lambda: root.loss(root(x), torch.zeros(5).long())).count() == expected


def test_it_agrees_with_timms_model_of_the_same_size():
    import timm

    root = nn.Module()
    root.backbone = timm.create_model("test_efficientnet")
    images = torch.zeros(2, 3, 32, 32).to(memory_format=torch.channels_last)
    found = watched(root, lambda: root.backbone(images)).count()
    assert found == 2 * forward_flops("test_efficientnet", 32)


def test_the_module_and_the_random_numbers_stay_as_they_are():
    root = Root().train()
    hooked = []
    root.head.register_forward_hook(lambda *_: hooked.append(1))
    before = copy.deepcopy(root.state_dict())
    torch.manual_seed(1)
    plain = root(torch.ones(4, 8))
    torch.manual_seed(1)
    root.load_state_dict(before)
    watch = ForwardWatch(root)
    assert torch.equal(root(torch.ones(4, 8)), plain)
    watch.stop()
    state = copy.deepcopy(root.state_dict())
    random_before = torch.get_rng_state()
    assert watch.count() > 0
    assert torch.equal(torch.get_rng_state(), random_before)
    assert all(torch.equal(root.state_dict()[key], state[key]) for key in state)
    assert len(hooked) == 2 * 2
    for part in root.modules():
        assert len(part._forward_hooks) == (part is root.head)
        assert not part._forward_pre_hooks


def test_what_backward_computes_again_is_seen_unless_the_watch_is_stopped():
    root, x = Root(), torch.randn(4, 8, requires_grad=True)
    watch = ForwardWatch(root)
    loss = checkpoint(root.body[0], x, use_reentrant=False).sum()
    watch.stop()
    loss.backward()
    assert watch.count() == 2 * 4 * 8 * 16


def test_calls_that_fail_or_are_repeated_in_parts_are_unknown():
    root = Root()

    class FailingError(RuntimeError):
        pass

    def fail():
        handle = root.body[1].register_forward_pre_hook(raises)
        with pytest.raises(FailingError):
            root(torch.zeros(4, 8))
        handle.remove()

    def raises(*_):
        raise FailingError

    assert watched(root, fail, lambda: root(torch.zeros(4, 8))).count() is None
    sizes = [lambda n=n: root(torch.zeros(n, 8)) for n in (4, 2, 2)]
    assert watched(root, *sizes).count() is None
    assert watched(root, *sizes[1:]).count() == watched(root, sizes[0]).count()
    assert watched(root).count() is None


def test_a_part_that_needs_data_raises():
    class Choosy(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    root = nn.Sequential(Choosy(4, 4))
    watch = watched(root, lambda: root(torch.ones(2, 4)))
    with pytest.raises(RuntimeError):
        watch.count()


def test_compiled_modules_are_recognised():
    root = Root()
    assert not is_compiled(root)
    root.body.compile(backend="eager")
    assert is_compiled(root)
    wrapped = Root()
    wrapped.body = torch.compile(wrapped.body, backend="eager")
    assert is_compiled(wrapped)
