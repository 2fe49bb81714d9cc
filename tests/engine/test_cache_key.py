import copy
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

from gpuopt.engine.aot_inductor import AotInductor
from gpuopt.engine.cache_key import device_key, differing, engine_key, weights_digest
from gpuopt.engine.onnx import Onnx
from tests.engine.conftest import CPU, request, small


class Backend(Onnx):
    name = "fake"

    def __init__(self, runtime="1.0"):
        self.runtime = runtime

    def versions(self, device):
        return {"runtime": self.runtime}


def test_the_key_is_the_same_for_the_same():
    assert engine_key(Backend(), request(), small()) == engine_key(Backend(), request(), small())


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (request("fp16"), "precision"),
        (request(most=7), "max_batch_size"),
        (request(optimal=3), "optimal_batch_size"),
        (request(fp32_layers=("blocks",)), "fp32_layers"),
    ],
)
def test_every_part_of_the_request_counts(changed, name):
    before, after = (engine_key(Backend(), asked, small()) for asked in (request(), changed))
    assert [line.split(" was ")[0] for line in differing(after, before)] == [name]


def test_one_changed_bit_of_a_weight_counts():
    network = small()
    other = copy.deepcopy(network)
    weight = other.backbone.head.weight.data.view(torch.int32)
    weight[0, 0] ^= 1
    assert weights_digest(other) != weights_digest(network)
    changed = engine_key(Backend(), request(), other)
    (line,) = differing(changed, engine_key(Backend(), request(), network))
    assert line.startswith("weights was ")


def test_normalisation_graph_and_memory_format_count():
    network = small()
    base = engine_key(Backend(), request(), network)
    for change, names in (
        ({"mean": (121.0,) * 3}, ["weights"]),
        ({"uses_channels_last": True}, ["channels_last"]),
        ({"name": "other"}, ["network"]),
    ):
        other = type(network)(**{**network.__dict__, **change})
        lines = differing(engine_key(Backend(), request(), other), base)
        assert [line.split(" was ")[0] for line in lines] == names
    network.backbone.conv.stride = (2, 2)
    (line,) = differing(engine_key(Backend(), request(), network), base)
    assert line.startswith("graph was ")


def test_libraries_and_arithmetic_count():
    base = engine_key(Backend(), request(), small())
    (line,) = differing(engine_key(Backend("1.1"), request(), small()), base)
    assert line == "runtime was 1.0, is 1.1"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if before == "highest" else "highest")
    try:
        (line,) = differing(engine_key(Backend(), request(), small()), base)
    finally:
        torch.set_float32_matmul_precision(before)
    assert line.startswith("float32_matmul was ")


def test_the_code_of_the_network_counts():
    key = engine_key(Backend(), request(), small())
    assert (key["timm"], key["torch"]) == (version("timm"), version("torch"))


def test_a_gpu_is_its_name_capability_memory_and_driver(monkeypatch):
    card = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr("gpuopt.engine.cache_key._driver", lambda: "580.1")
    assert device_key(torch.device("cuda", 0)) == {
        "device": "NVIDIA H200",
        "capability": "9.0",
        "memory_mib": "131072",
        "driver": "580.1",
    }
    assert "driver" not in device_key(CPU)


@pytest.mark.parametrize("backend", [Backend(), AotInductor()])
def test_another_processor_is_another_key(monkeypatch, backend):
    """A file that was compiled with AVX-512 ends in a crash where there is none."""
    base = engine_key(backend, request(), small())
    monkeypatch.setattr("gpuopt.engine.cache_key.processor_flags", lambda: ("avx", "avx2"))
    (line,) = differing(engine_key(backend, request(), small()), base)
    assert line.startswith("processor was ")
    assert "processor" in AotInductor().versions(torch.device("cuda", 0))


def test_a_machine_without_a_driver_has_a_key():
    from gpuopt.engine.cache_key import _driver

    assert _driver()
