from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from gpuopt.steps.step_state import StateKeeper


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.mean = MeanMetric()
        self.register_buffer("constant", torch.ones(1000))
        self.register_buffer("counter", torch.zeros(1))
        self.register_buffer("rare", torch.zeros(1))


def keeper(module):
    connector = SimpleNamespace(_current_fx=None)
    return StateKeeper(SimpleNamespace(_results=None, _logger_connector=connector), module)


@torch.no_grad()
def change(module):
    module.norm(torch.randn(4, 2))
    module.mean.update(torch.rand(()))
    module.counter += 1


def test_everything_is_brought_back():
    module = Module()
    kept = keeper(module)
    for _ in range(3):  # nothing is known of the first step
        before = {name: value.clone() for name, value in module.state_dict().items()}
        state = kept.take()
        total, drawn = float(module.mean.mean_value), torch.rand(3)
        change(module)
        assert kept.restore(state) == []
        assert torch.equal(torch.rand(3), drawn)
        assert float(module.mean.mean_value) == total
        after = module.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        change(module)
        kept.learn(state)


def test_only_what_was_seen_to_change_is_copied():
    module = Module()
    kept = keeper(module)
    state = kept.take()
    change(module)
    kept.learn(state)
    state = kept.take()
    copied = {state.slots[index].name for members, _ in state.copies for index in members}
    assert {"counter", "running_mean", "running_var", "num_batches_tracked"} <= copied
    assert not {"constant", "rare"} & copied


def test_a_buffer_that_changes_later_all_the_same_is_named():
    module = Module()
    kept = keeper(module)
    state = kept.take()
    change(module)
    kept.learn(state)
    state = kept.take()
    module.rare += 1
    assert kept.restore(state) == ["rare"]


def test_a_buffer_that_is_deleted_on_the_way_stays_deleted():
    module = Module()
    kept = keeper(module)
    state = kept.take()
    change(module)
    kept.learn(state)
    del module.rare
    module.constant = None
    state = kept.take()
    change(module)
    assert kept.restore(state) == []  # with nothing in its place
    assert not hasattr(module, "rare")
    assert module.constant is None
    assert module.counter == 1


def replaced(module):
    module.norm.running_mean = torch.full((2,), 3.0)


def moved(module):
    module.norm.running_mean.data = torch.full((2,), 4.0)


def gone(module):
    module.norm.num_batches_tracked = None


def made_in_inference(module):
    with torch.inference_mode():
        module.norm.running_var = torch.full((2,), 5.0)


def loaded(module):
    module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})


def written_first(module):
    module.rare += 1


BETWEEN = [
    replaced,
    moved,
    gone,
    made_in_inference,
    loaded,
    written_first,
    lambda m: m.mean.reset(),
]


@pytest.mark.parametrize("between", BETWEEN)
def test_what_happens_to_buffers_and_metrics_between_steps_is_seen(between):
    """After the first step the same tensors are expected, and nothing is taken for granted."""
    module = Module()
    kept = keeper(module)
    for step in range(4):
        if step == 2:
            between(module)
        objects = dict(module.named_buffers())
        before = {name: value.clone() for name, value in objects.items()}
        total, count = module.mean.mean_value, module.mean._update_count
        state = kept.take()
        # Tensors of inference mode can be written to in there alone.
        with torch.inference_mode(between is made_in_inference and step >= 2):
            for _ in range(2):  # it stays valid
                change(module)
                assert kept.restore(state) == []
        assert dict(module.named_buffers()).keys() == before.keys()
        for name, value in module.named_buffers():
            assert value is objects[name]
            assert torch.equal(value, before[name])
        assert module.mean.mean_value is total
        assert module.mean._update_count == count
        with torch.inference_mode(between is made_in_inference and step >= 2):
            change(module)
        kept.learn(state)


def test_states_taken_before_and_after_it_was_learned_what_changes_stay_valid():
    module = Module()
    kept = keeper(module)
    first = kept.take()
    start = {name: value.clone() for name, value in module.named_buffers()}
    change(module)
    kept.learn(first)
    second = kept.take()
    middle = {name: value.clone() for name, value in module.named_buffers()}
    change(module)
    for state, expected in ((second, middle), (first, start)):
        assert kept.restore(state) == []
        for name, value in module.named_buffers():
            assert torch.equal(value, expected[name])
