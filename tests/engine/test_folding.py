import copy

import pytest
import torch
from torch import nn

from gpuopt.engine.folding import fold_batch_norms
from tests.engine.conftest import trained

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def norms(network):
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_folded_norms_are_gone_and_change_nothing(name):
    network = trained(name).backbone
    folded = copy.deepcopy(network)
    count = fold_batch_norms(folded, IMAGES)
    assert count == len(norms(network)) > 5
    assert not norms(folded)
    with torch.no_grad():
        torch.testing.assert_close(folded(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)


class Branch(nn.Module):
    """The norm is not all that reads the convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        seen = self.conv(images)
        return self.norm(seen) + seen


class Twice(nn.Module):
    """One convolution before two norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, images):
        for norm in self.norms:
            images = norm(self.conv(images))
        return images


class Apart(nn.Module):
    """Something lies between the convolution and the norm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))

    def forward(self, images):
        return self.layers(images)


class Live(nn.Module):
    """The norm has no running statistics."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
        )

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize("kind", [Branch, Twice, Apart, Live])
def test_what_cannot_be_folded_stays(kind):
    network = kind().eval()
    before = copy.deepcopy(network.state_dict())
    assert fold_batch_norms(network, IMAGES) == 0
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_a_grouped_convolution_with_a_bias_and_a_plain_norm():
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3, bias=True), nn.BatchNorm2d(6, affine=False)
    ).eval()
    with torch.no_grad():
        network[1].running_mean.normal_()
        network[1].running_var.uniform_(0.1, 3)
        before = network(IMAGES)
        assert fold_batch_norms(network, IMAGES) == 1
        torch.testing.assert_close(network(IMAGES), before, rtol=1e-4, atol=1e-5)
