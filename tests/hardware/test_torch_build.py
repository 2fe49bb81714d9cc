import sys
from types import SimpleNamespace

import pytest
import torch

from gpuopt.hardware import TorchBuild, least_driver, torch_build, torch_versions


def test_the_build_is_read_from_torch_itself():
    build = torch_build()
    assert build.version == torch.__version__
    assert build.cuda == torch.version.cuda
    assert build.packages["torch"] is not None
    if build.cuda is not None:
        assert all(name.startswith(("sm_", "compute_")) for name in build.arch_list)
    assert build.as_dict()["packages"] == build.packages


def test_versions_need_no_import():
    glance = torch_versions()
    assert (glance.version, glance.cuda) == (torch.__version__, torch.version.cuda)
    assert (glance.arch_list, glance.onnx_providers) == (None, None)


@pytest.mark.parametrize(
    ("archs", "capability", "drives"),
    [
        (("sm_80", "sm_86"), "8.9", True),
        (("sm_80", "sm_86"), "7.5", False),
        ((), "7.5", False),  # a build without CUDA
        (None, "8.9", None),  # not asked
        (("sm_80",), None, None),
        (("sm_80",), "eight", None),
    ],
)
def test_a_card_is_driven_when_there_is_code_for_it(archs, capability, drives):
    assert TorchBuild(arch_list=archs).drives(capability) is drives


def test_the_least_driver_of_a_cuda():
    assert least_driver(13) == 580
    assert least_driver(9) is None
    assert TorchBuild(cuda="12.8").cuda_major == 12
    assert TorchBuild().cuda_major is None


@pytest.mark.parametrize(("number", "words"), [(92400, "9.24.0"), (8902, "8.9.2"), (None, None)])
def test_cudnn_is_worded(number, words, monkeypatch):
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: number)
    assert torch_build().cudnn == words


def test_a_cudnn_that_does_not_load_says_why(monkeypatch):
    def version():
        raise RuntimeError("cuDNN version 91900 is not compatible\nwith devices with SM < 7.5")

    monkeypatch.setattr("torch.backends.cudnn.version", version)
    assert torch_build().cudnn.startswith("does not load: cuDNN version 91900 is not compatible")


def test_a_machine_without_onnx_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert torch_build().onnx_providers is None
    fake = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    assert torch_build().onnx_providers == ("CUDAExecutionProvider",)
