"""Networks that are small enough to be exported in a second or two."""

import pytest
import timm
import torch
from torch import nn

from gpuopt.engine import EngineRequest, TrainedNetwork

CPU = torch.device("cpu")


def is_of_the_compiler(reason):
    """Tell a fault of this machine's `CXX`, which gpuopt reports, from one of gpuopt's."""
    return "linked a libstdc++ of its own" in reason


def trained(name, *, seed=0):
    """Make a timm network whose norms have seen images, so that folding them matters."""
    torch.manual_seed(seed)
    backbone = timm.create_model(name, num_classes=5).train()
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for _ in range(3):
            backbone(torch.randn(8, 3, 32, 32) * 1.5 + 0.2)
    channels_last = any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    return TrainedNetwork(
        backbone.eval(), (120.0, 125.0, 130.0), (60.0, 58.0, 62.0), name, channels_last
    )


class Small(nn.Module):
    """A network that compilers are done with quickly."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


def small():
    return TrainedNetwork(Small().eval(), (120.0,) * 3, (60.0,) * 3, "small")


def request(precision="fp32", *, most=6, optimal=4, fp32_layers=()):
    return EngineRequest(32, 5, precision, optimal, most, CPU, fp32_layers)


def pictures(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def expected(network, images):
    """Compute logits the plain way."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    with torch.no_grad():
        return network.backbone((images.float() - mean) / std)


@pytest.fixture(autouse=True)
def _own_seal(tmp_path_factory, monkeypatch):
    """A key of this session: none is left in the user's folder."""
    folder = tmp_path_factory.getbasetemp() / "seal"
    monkeypatch.setattr("gpuopt.engine.seal.default_cache_dir", lambda: folder)
