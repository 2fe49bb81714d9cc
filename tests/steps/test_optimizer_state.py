import copy
import weakref

import pytest
import torch
from torch import nn

from gpuopt.steps.optimizer_state import make_state, try_update_memory, writes_so_far


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
def test_state_made_early_changes_no_step(kind, options):
    torch.manual_seed(0)
    nets = [nn.Linear(3, 2)]
    nets.append(copy.deepcopy(nets[0]))
    optimizers = [kind(net.parameters(), 0.1, weight_decay=0.1, **options) for net in nets]
    make_state(optimizers[0])
    assert nets[0].weight.grad is None
    if kind is not torch.optim.SGD:
        assert len(optimizers[0].state) == 2
    for _ in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
    assert torch.equal(nets[0].weight, nets[1].weight)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    for name, value in states[0].get(0, {}).items():
        assert value is None or torch.equal(torch.as_tensor(value), states[1][0][name])


def test_an_update_is_noticed():
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    make_state(optimizer)
    net.weight.grad = torch.ones_like(net.weight)
    before = writes_so_far(optimizer)
    assert writes_so_far(optimizer) == before
    optimizer.state[net.weight]["exp_avg"].mul_(0.9)
    assert writes_so_far(optimizer) != before


def test_an_update_is_noticed_where_the_first_parameters_have_no_gradient():
    unused, frozen, net = nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False), nn.Linear(3, 2)
    parameters = [*unused.parameters(), *frozen.parameters(), *net.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.1)
    net(torch.ones(4, 3)).square().sum().backward()
    before = writes_so_far(optimizer)
    assert writes_so_far(optimizer) == before
    optimizer.step()
    assert writes_so_far(optimizer) != before


@pytest.mark.parametrize(
    ("kind", "options", "takes"),
    [
        (torch.optim.AdamW, {"foreach": True}, True),
        (torch.optim.Adam, {"foreach": True}, True),
        (torch.optim.AdamW, {"fused": True}, False),
        (torch.optim.AdamW, {"foreach": False}, False),
        (torch.optim.AdamW, {}, False),  # on a CPU PyTorch goes tensor by tensor
        (torch.optim.SGD, {"foreach": True}, False),
        (torch.optim.SGD, {"foreach": True, "momentum": 0.9}, False),
        (torch.optim.SGD, {"foreach": True, "weight_decay": 0.1}, True),
        (torch.optim.SGD, {"foreach": True, "momentum": 0.9, "nesterov": True}, True),
        (torch.optim.RMSprop, {"foreach": True}, False),
        (type("Own", (torch.optim.AdamW,), {}), {"foreach": True}, False),
    ],
)
def test_memory_is_looked_for_only_where_an_update_needs_it(monkeypatch, kind, options, takes):
    with_gradient, without = (nn.Parameter(torch.ones(3)) for _ in range(2))
    with_gradient.grad = torch.ones(3)
    taken = []
    monkeypatch.setattr(torch, "empty_like", taken.append)
    try_update_memory(kind([with_gradient, without], lr=0.1, **options))
    assert [tensor is with_gradient for tensor in taken] == [True] * takes


def test_memory_of_groups_is_looked_for_one_after_the_other(monkeypatch):
    groups = [{"params": [nn.Parameter(torch.ones(3))]} for _ in range(3)]
    for group in groups:
        group["params"][0].grad = torch.ones(3)
    taken, alive = [], []
    own = torch.empty_like

    def watched(tensor):
        alive.append(sum(reference() is not None for reference in taken))
        new = own(tensor)
        taken.append(weakref.ref(new))
        return new

    monkeypatch.setattr(torch, "empty_like", watched)
    try_update_memory(torch.optim.AdamW(groups, foreach=True))
    assert alive == [0, 0, 0]
