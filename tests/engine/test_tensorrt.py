"""TensorRT without TensorRT: arguments against the recorded release, the path against a fake."""

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.engine.tensorrt import TensorRT
from gpuopt.engine.verification import Bounds
from gpuopt.engine.verify import proof_batch_sizes, verify
from gpuopt.errors import FaultError, InputError
from tests.engine.fake_torch_tensorrt import make_library
from tests.engine.package_signatures import read_signatures, recorded

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


def asked(precision="fp32", optimal=12, maximum=20, **options):
    return EngineRequest(32, 4, precision, optimal, maximum, CPU, **options)


class Net(nn.Module):
    """The parts of a transformer, of which exports take no time."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 16, 16)
        self.blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in "ab"])
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.head(tokens.mean(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = Net().eval()
    nn.init.normal_(net.head.weight, std=2.0)
    return TrainedNetwork(net, (127.0,) * 3, (50.0,) * 3, "net")


@pytest.fixture
def library(monkeypatch):
    """The fake, on a machine that is said to have a GPU."""
    fake = make_library()
    monkeypatch.setitem(sys.modules, "torch_tensorrt", fake)
    monkeypatch.setattr(TensorRT, "unavailable", lambda self, device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return fake


def calls(library, name):
    return [given for called, given in library.calls if called == name]


def images(count=20):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def built(network, request, path, backend=None):
    backend = backend or TensorRT()
    backend.build(request, network, path)
    return backend.load(request, path)


def test_an_engine_is_built_saved_loaded_and_answers_as_the_model(network, library, tmp_path):
    engine = built(network, asked(), tmp_path / "model.engine")
    assert (engine.name, engine.precision, engine.max_batch_size) == ("tensorrt", "fp32", 20)
    assert engine.device == CPU

    def reference(pixels):
        return network.backbone((pixels.float() - 127) / 50)

    found = verify(
        engine,
        reference,
        images(),
        batch_sizes=proof_batch_sizes(12, 20),
        bounds=Bounds(least_images=20),
    )
    assert found.accepted, found.reasons
    assert [path.name for path in tmp_path.iterdir()] == ["model.engine"]


def test_the_builder_is_asked_for_two_profiles_of_uint8_images(network, library, tmp_path):
    built(network, asked(), tmp_path / "model.engine")
    (given,) = calls(library, "Input")
    batches = [tuple(shape[0] for shape in profile.values()) for profile in given["profiles"]]
    assert batches == [(1, 1, 4), (8, 12, 20)]
    assert given["dtype"] == torch.uint8
    (given,) = calls(library, "convert_exported_program_to_serialized_trt_engine")
    assert given["require_full_compilation"]
    assert given["immutable_weights"]
    assert not Path(given["timing_cache_path"]).parent.exists()  # nothing is left in /tmp
    assert [given["gpu_id"] for given in calls(library, "Device")] == [0, 0]


@pytest.mark.parametrize(
    ("precision", "fp32_sums", "exact"),
    [("fp16", True, False), ("bf16", False, False), ("fp32", False, True)],
)
def test_precision_is_in_the_graph_and_in_no_flag(
    network, library, tmp_path, precision, fp32_sums, exact
):
    TensorRT().build(asked(precision), network, tmp_path / "model.engine")
    (given,) = calls(library, "convert_exported_program_to_serialized_trt_engine")
    assert (given["use_fp32_acc"], given["disable_tf32"]) == (fp32_sums, exact)
    assert not {"enabled_precisions", "enable_autocast"} & given.keys()
    program = given["exported_program"]
    types = {str(value.dtype) for value in program.state_dict.values()}
    half = {"fp16": "torch.float16", "bf16": "torch.bfloat16"}.get(precision)
    assert types == {"torch.float32"} | ({half} if half else set())


def test_layers_that_stay_in_fp32_are_so_in_the_graph(network, library, tmp_path):
    request = asked("fp16", fp32_layers=("blocks.1",))
    TensorRT().build(request, network, tmp_path / "model.engine")
    (given,) = calls(library, "convert_exported_program_to_serialized_trt_engine")
    types = {
        name: value.dtype
        for name, value in given["exported_program"].state_dict.items()
        if name.startswith("backbone.blocks.")
    }
    assert types["backbone.blocks.1.1.weight"] == torch.float32
    assert types["backbone.blocks.0.1.weight"] == torch.float16


def test_batches_are_filled_up_and_profiles_are_changed_only_when_needed(
    network, library, tmp_path
):
    engine = built(network, asked(), tmp_path / "model.engine")
    expected = engine(images(20))
    for count in (1, 3, 5, 12, 13, 2):
        found = engine(images(20)[:count])
        assert found.shape == (count, 4)
        torch.testing.assert_close(found, expected[:count])
    assert engine._module.seen == [20, 1, 3, 12, 12, 20, 2]
    assert calls(library, "set_optimization_profile") == [1, 0, 1, 0]


def test_more_images_than_the_engine_takes_are_refused(network, library, tmp_path):
    engine = built(network, asked(), tmp_path / "model.engine")
    with pytest.raises(InputError, match=r"takes uint8 images \[1 to 20, 3, 32, 32\]"):
        engine(images(21))


def test_an_engine_for_single_images_has_one_profile(network, library, tmp_path):
    engine = built(network, asked(optimal=1, maximum=1), tmp_path / "model.engine")
    assert engine(images(1)).shape == (1, 4)


def test_after_an_out_of_memory_smaller_batches_are_not_filled_up_again(
    network, library, tmp_path, monkeypatch
):
    engine = built(network, asked(optimal=16), tmp_path / "model.engine")
    forward = type(engine._module).forward

    def crowded(module, pixels):
        if len(pixels) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(module, pixels)

    monkeypatch.setattr(type(engine._module), "forward", crowded)
    with pytest.raises(torch.OutOfMemoryError):
        engine(images(16))
    assert engine(images(8)).shape == (8, 4)
    assert engine(images(5)).shape == (5, 4)
    assert engine._module.seen == [8, 8]  # a profile has a minimum


def test_a_network_that_cannot_be_compiled_is_a_fault_in_one_line(
    network, library, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise RuntimeError("no converter for aten.roll\nnode 7")

    monkeypatch.setattr(library.dynamo, "convert_exported_program_to_serialized_trt_engine", fail)
    with pytest.raises(FaultError, match=r"compiled by TensorRT \(RuntimeError: no converter"):
        TensorRT().build(asked(), network, tmp_path / "model.engine")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_engine_is_a_fault_in_one_line(library, tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"of another version")
    with pytest.raises(FaultError, match=r"model\.engine cannot be loaded") as error:
        TensorRT().load(asked(), path)
    assert "\n" not in str(error.value)


def test_without_the_package_the_extra_is_named(monkeypatch, network, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    reason = TensorRT().unavailable(CUDA)
    assert reason == "engine=tensorrt needs torch-tensorrt: pip install 'gpuopt[tensorrt]'"
    assert "needs an NVIDIA GPU" in TensorRT().unavailable(CPU)
    with pytest.raises(InputError, match="needs an NVIDIA GPU"):
        TensorRT().build(asked(), network, tmp_path / "model.engine")
    with pytest.raises(InputError, match="needs an NVIDIA GPU"):
        TensorRT().load(asked(), tmp_path / "model.engine")


def test_a_package_without_its_libraries_is_one_line(monkeypatch, tmp_path):
    folder = tmp_path / "torch_tensorrt"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise Exception('libnvinfer.so.11:\\n not found')\n")
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    reason = TensorRT().unavailable(CUDA)
    assert reason.startswith("torch-tensorrt cannot be loaded (libnvinfer.so.11:")
    assert reason.endswith("pip install 'gpuopt[tensorrt]'")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("release", "is_rtx", "capability", "words"),
    [
        ("2.12.1", False, (9, 0), "2.12.1 is installed, and engine=tensorrt is written for 2.14"),
        ("2.14.0", True, (7, 5), "not for compute capability 7.5"),
        ("2.14.0", True, (8, 9), None),
        ("2.14.0+cu130", False, (7, 5), None),
    ],
)
def test_other_releases_and_cards_are_refused(monkeypatch, release, is_rtx, capability, words):
    monkeypatch.setitem(sys.modules, "torch_tensorrt", make_library(release, is_rtx))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = TensorRT().unavailable(CUDA)
    assert (reason is None) if words is None else (words in reason)


def test_the_fake_refuses_what_the_release_does_not_take(library):
    with pytest.raises(TypeError, match="unexpected keyword argument 'enabled_precisions'"):
        library.dynamo.convert_exported_program_to_serialized_trt_engine(
            None, enabled_precisions={torch.float16}
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'profile'"):
        library.Input(profile=[])


def test_the_record_is_of_the_pinned_release():
    pyproject = Path(__file__).parents[2].joinpath("pyproject.toml").read_text("utf-8")
    assert f'"torch-tensorrt=={recorded()["version"]}"' in pyproject
    assert len(recorded()["sha256"]) == 64


@pytest.mark.skipif(
    importlib.util.find_spec("torch_tensorrt") is None, reason="torch-tensorrt is not installed"
)
def test_the_record_is_what_the_installed_package_takes():
    (place,) = importlib.util.find_spec("torch_tensorrt").submodule_search_locations
    assert version("torch-tensorrt") == recorded()["version"]
    assert read_signatures(Path(place).parent) == recorded()["callables"]


def test_signatures_are_read_from_sources(tmp_path):
    """On a package of a few lines, laid out as torch-tensorrt is."""
    package = tmp_path / "torch_tensorrt"
    for folder in ("dynamo/runtime", "runtime"):
        (package / folder).mkdir(parents=True)
    (package / "__init__.py").write_text("from torch_tensorrt._Input import Device, Input\n")
    (package / "_Input.py").write_text(
        "class Device:\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        self.gpu_id = kwargs['gpu_id'] if 'dla' in kwargs else kwargs.get('other')\n"
        "class Input(Device):\n"
        "    def __init__(self, shape, *, name=''): ...\n"
    )
    (package / "dynamo/__init__.py").write_text(
        "from ._compiler import convert_exported_program_to_serialized_trt_engine\n"
        "from ._settings import CompilationSettings\n"
    )
    (package / "dynamo/_compiler.py").write_text(
        "def convert_exported_program_to_serialized_trt_engine(program, inputs=None, *, device=0,"
        " **kwargs): ...\n"
    )
    (package / "dynamo/_settings.py").write_text(
        "@dataclass\nclass CompilationSettings:\n    device: int = DEVICE\n"
    )
    (package / "runtime/__init__.py").write_text(
        "from torch_tensorrt.dynamo.runtime import TorchTensorRTModule\n"
    )
    (package / "dynamo/runtime/__init__.py").write_text(
        "class TorchTensorRTModule:\n"
        "    def __init__(self, engine=None): ...\n"
        "    def set_optimization_profile(self, profile): ...\n"
    )
    found = read_signatures(tmp_path)
    names = {path.rpartition(".")[2]: [p["name"] for p in ps] for path, ps in found.items()}
    assert names == {
        "Device": ["dla", "gpu_id", "other"],
        "Input": ["shape", "name"],
        "CompilationSettings": ["device"],
        "convert_exported_program_to_serialized_trt_engine": ["program", "inputs", "device"],
        "TorchTensorRTModule": ["engine"],
        "set_optimization_profile": ["profile"],
    }
