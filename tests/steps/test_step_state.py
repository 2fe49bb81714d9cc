from types import SimpleNamespace

import lightning.pytorch as L
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
