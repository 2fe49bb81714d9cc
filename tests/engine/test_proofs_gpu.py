"""Proofs and timings of real engines on a GPU."""

import pytest
import timm
import torch
from torch import nn

from gpuopt.engine.benchmark import MadeEngine, benchmark_engines
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.fallback import ProofImages, build_verified
from gpuopt.engine.protocol import EngineRequest
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.seal import Seal
from gpuopt.engine.trained import network_of
from gpuopt.engine.verification import Bounds
from tests.engine.conftest import is_of_the_compiler

pytestmark = pytest.mark.gpu
FEW = Bounds(least_images=48)


@pytest.fixture
def proof():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return ProofImages(images, tuple(map(str, range(48))))


def network(factor=1.0):
    """A ConvNeXt whose classes are decided; a factor lets its last MLP exceed fp16's range."""
    torch.manual_seed(0)
    net = timm.create_model("test_convnext", num_classes=5).eval().cuda()
    nn.init.normal_(net.get_classifier().weight, std=1.0)
    with torch.no_grad():
        block = net.get_submodule("stages.3.blocks.1")
        block.mlp.fc1.weight *= factor
        block.mlp.fc2.weight /= factor
    return network_of(net, backbone="", mean=(127.0,) * 3, std=(64.0,) * 3)


def request():
    return EngineRequest(64, 5, "fp16", 8, 16, torch.device("cuda", 0))


def engines(trained, tmp_path):
    cache = EngineCache(tmp_path, seal=Seal(tmp_path))
    return ProvedEngines(trained, cache, tell=print, bounds=FEW)


@pytest.mark.parametrize("name", ["eager", "aot_inductor"])
def test_an_overflow_on_a_gpu_is_found_and_cured(name, proof, tmp_path):
    trained = network(1e6)
    found = build_verified(
        request(),
        trained,
        [name],
        proof,
        make=engines(trained, tmp_path).make,
        tell=print,
        bounds=FEW,
    )
    first = str(found.attempts[0])
    assert "are not finite" in first or "ends the process that loads it" in first
    assert found.verification.accepted
    assert found.request.fp32_layers or found.request.precision == "fp32"


def test_engines_on_a_gpu_are_timed_and_their_memory_is_known(proof, tmp_path):
    trained = network()
    proved = engines(trained, tmp_path)
    records = benchmark_engines(
        ["aot_inductor"],
        request(),
        trained,
        proof,
        make=lambda name, asked: MadeEngine(proved.make(name, asked), 1.0),
        warmup=2,
        runs=4,
        bounds=FEW,
        tell=print,
    )
    for record in records:
        if record.engine == "aot_inductor" and is_of_the_compiler(record.reason):
            pytest.skip(record.reason)
        assert record.is_verified, record.reason
        assert record.precision == "fp16"
        assert record.memory_bytes is not None
        assert {t.batch_size for t in record.timings} == {1, 8, 16}
    assert records[1].timing("end_to_end", 16).time_ratio is not None
