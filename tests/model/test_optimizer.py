import pytest
import torch
from torch import nn

from gpuopt.model import AdamW, Sgd
from gpuopt.model.optimizer import parameter_groups


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def groups_of(network):
    return parameter_groups(
        network,
        network[3].parameters(),
        learning_rate=0.1,
        head_learning_rate=0.5,
        weight_decay=0.05,
    )


def test_every_parameter_is_in_exactly_one_group(network):
    grouped = [id(p) for group in groups_of(network) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


def test_head_and_decay_are_told_apart(network):
    settings = {
        g["name"]: (g["lr"], g["weight_decay"], len(g["params"])) for g in groups_of(network)
    }
    assert settings == {
        "backbone": (0.1, 0.05, 1),
        "backbone (no decay)": (0.1, 0.0, 3),
        "head": (0.5, 0.05, 1),
        "head (no decay)": (0.5, 0.0, 1),
    }


def test_frozen_parameters_are_left_out(network):
    network[0].weight.requires_grad_(False)
    assert all(p.requires_grad for group in groups_of(network) for p in group["params"])


@pytest.mark.parametrize("fused", [True, False])
def test_factories_pass_their_settings_on(network, fused):
    adamw = AdamW(beta1=0.8, beta2=0.9, eps=1e-6)(groups_of(network), fused=fused)
    assert adamw.defaults["betas"] == (0.8, 0.9)
    assert adamw.defaults["eps"] == 1e-6
    assert bool(adamw.defaults["fused"]) is fused
    sgd = Sgd(momentum=0.7)(groups_of(network), fused=fused)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.7, True)


def test_fused_and_plain_take_the_same_step(network):
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    twin.load_state_dict(network.state_dict())
    for net, fused in ((network, True), (twin, False)):
        optimizer = AdamW()(groups_of(net), fused=fused)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for left, right in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(left, right)
