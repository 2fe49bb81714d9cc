"""Networks that are sound in fp32 and overflow in fp16 are caught, and served with more of fp32."""

from dataclasses import dataclass

import pytest
import timm
import torch
from sklearn.datasets import load_digits
from torch import nn

from gpuopt.engine.fallback import EngineSearch, ProofImages, build_verified
from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.engine.served_model import ServedModel, serve
from gpuopt.engine.verification import Bounds

CPU = torch.device("cpu")
COUNT = 24


@dataclass
class Served:
    """The served model as it is, under another name."""

    name: str
    model: ServedModel
    precision: str
    device: torch.device = CPU
    max_batch_size: int = 6

    def __call__(self, images):
        return self.model(images)


@pytest.fixture(scope="module")
def proof():
    """Real images: written digits."""
    pixels = torch.from_numpy(load_digits().images[:COUNT]).float()[:, None] * 15
    images = nn.functional.interpolate(pixels, size=(32, 32)).to(torch.uint8).expand(-1, 3, -1, -1)
    return ProofImages(images.contiguous(), tuple(map(str, range(COUNT))))


def network(name, blocks, place):
    """Make the hidden values of a block's MLP, or what comes into its norm, exceed fp16's range."""
    torch.manual_seed(0)
    options = {"img_size": 32} if name == "test_vit" else {}
    net = timm.create_model(name, num_classes=10, **options).eval()
    head = net.get_classifier()
    nn.init.normal_(head.weight, std=1.0)
    with torch.no_grad():
        if place == "norm":
            stem = net.stem[0] if name == "test_convnext" else net.patch_embed.proj
            stem.weight *= 3e5
            stem.bias *= 3e5
        elif place is not None:
            block = net.get_submodule(blocks[place])
            block.mlp.fc1.weight *= 1e6
            block.mlp.fc2.weight *= 1e-6
    return TrainedNetwork(net, (127.0,) * 3, (64.0,) * 3, name)


def search(net, proof):
    lines = []

    def make(name, request):
        return Served(name, serve(net, request), request.precision)

    found = build_verified(
        EngineRequest(32, 10, "fp16", 4, 6, CPU),
        net,
        ["onnx"],
        proof,
        make=make,
        tell=lines.append,
        bounds=Bounds(least_images=COUNT),
    )
    return found, lines


NETWORKS = {
    "test_convnext": ("stages.0.blocks.0", "stages.3.blocks.1"),
    "test_vit": ("blocks.0", "blocks.5"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sound_network_is_served_in_fp16(name, proof):
    found, lines = search(network(name, NETWORKS[name], None), proof)
    assert found.engine.precision == "fp16", lines
    assert found.request.fp32_layers == ()
    assert 0 < found.verification.max_logit_difference < 0.5


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shows_in_eager", [True, False])
def test_an_overflow_in_the_last_stage_is_cured_by_its_layers_in_fp32(
    name, shows_in_eager, proof, monkeypatch
):
    if not shows_in_eager:  # the engine's own proof has to find it
        monkeypatch.setattr(EngineSearch, "_try_in_eager", lambda *_: None)
    found, lines = search(network(name, NETWORKS[name], -1), proof)
    assert f"onnx fp16 {'fails: not built' if shows_in_eager else 'rejected: logits'}" in lines[0]
    assert "are not finite" in lines[0]
    assert found.engine.precision == "fp16", lines
    assert NETWORKS[name][-1] in found.request.fp32_layers
    assert len(lines) == 2


@pytest.mark.parametrize(("name", "place"), [("test_convnext", "norm"), ("test_vit", 0)])
def test_an_overflow_before_it_is_cured_by_fp32(name, place, proof):
    found, lines = search(network(name, NETWORKS[name], place), proof)
    assert all("are not finite" in line for line in lines[:2]), lines
    assert (found.engine.name, found.engine.precision) == ("onnx", "fp32")
    assert found.verification.accepted
    assert len(lines) == 3
