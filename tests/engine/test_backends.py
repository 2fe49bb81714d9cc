import pytest
import torch

from gpuopt.configuration.limits import CHOICES
from gpuopt.engine import backends
from gpuopt.engine.backends import ENGINE_NAMES, FILE_ENGINES, file_backend, live_backend, preferred
from gpuopt.engine.providers import PROVIDERS
from gpuopt.errors import InputError


def test_every_name_is_one_backend_of_that_name():
    for name in ENGINE_NAMES:
        found = [b for b in (file_backend(name), live_backend(name)) if b is not None]
        assert [backend.name for backend in found] == [name]
        assert (file_backend(name) is not None) == (name in FILE_ENGINES)


def test_the_settings_take_these_names():
    assert CHOICES["engine"] == ("auto", *ENGINE_NAMES)
    assert CHOICES["provider"] == ("auto", *PROVIDERS)


def test_an_unknown_name_is_refused():
    for look_up in (file_backend, live_backend):
        with pytest.raises(InputError, match=r"engine=onxx: no such engine \(nearest: onnx"):
            look_up("onxx")


def test_what_is_unavailable_is_not_tried(monkeypatch):
    cpu = torch.device("cpu")
    assert "tensorrt" not in preferred(cpu)
    monkeypatch.setattr(backends.Onnx, "unavailable", lambda self, device: None)
    monkeypatch.setattr(backends.AotInductor, "unavailable", lambda self, device: "no compiler")
    monkeypatch.setattr(backends.Compiled, "unavailable", lambda self, device: None)
    assert preferred(cpu) == ("onnx", "compiled")
