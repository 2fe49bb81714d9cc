import shutil

import pytest
import torch

from gpuopt.engine.aot_inductor import AotInductor
from gpuopt.errors import FaultError, InputError
from tests.engine.conftest import CPU, expected, pictures, request, small


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_package_takes_any_batch_size(tmp_path):
    network, path = small(), tmp_path / "engine.pt2"
    AotInductor().build(request(), network, path)
    engine = AotInductor().load(request(), path)
    assert (engine.name, engine.device, engine.precision) == ("aot_inductor", CPU, "fp32")
    for count in (1, 3, 6):
        images = pictures(count)
        torch.testing.assert_close(engine(images), expected(network, images), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="takes uint8 images"):
        engine(pictures(7))


def test_without_a_compiler_onnx_runtime_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"engine=aot_inductor: no C\+\+ .* engine=onnx"):
        AotInductor().build(request(), small(), tmp_path / "engine.pt2")


def test_what_is_no_package_is_one_line(tmp_path):
    path = tmp_path / "engine.pt2"
    path.write_bytes(b"no package")
    with pytest.raises(FaultError, match="cannot be loaded"):
        AotInductor().load(request(), path)


def test_running_out_of_memory_is_pytorchs_error():
    from gpuopt.engine.aot_inductor import _classified

    def full(images):
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    def broken(images):
        raise RuntimeError("size mismatch")

    with pytest.raises(torch.OutOfMemoryError):
        _classified(full, pictures(1))
    with pytest.raises(RuntimeError, match="size mismatch"):
        _classified(broken, pictures(1))
