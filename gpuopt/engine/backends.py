"""The backends by the name that `engine=` takes."""

import torch

from gpuopt.engine.aot_inductor import AotInductor
from gpuopt.engine.compiled import Compiled
from gpuopt.engine.eager import Eager
from gpuopt.engine.onnx import Onnx
from gpuopt.engine.protocol import Backend, LiveBackend
from gpuopt.engine.tensorrt import TensorRT
from gpuopt.errors import InputError, nearest

__all__ = ["ENGINE_NAMES", "FILE_ENGINES", "file_backend", "live_backend", "preferred"]

FILE_ENGINES = ("aot_inductor", "onnx", "tensorrt")
ENGINE_NAMES = ("eager", "compiled", *FILE_ENGINES)
# What is tried where nothing was measured, the fastest first as far as others have measured.
_ON_GPU = ("tensorrt", "aot_inductor", "compiled", "onnx")
_ON_CPU = ("onnx", "aot_inductor", "compiled")


def file_backend(name: str, *, provider: str = "auto") -> Backend | None:
    """Return a backend whose engines are files; None for the name of a live one.

    Args:
        name: One of `ENGINE_NAMES`.
        provider: Of ONNX Runtime; see `Onnx`.

    Raises:
        InputError: For an unknown name.
    """
    _require_known(name)
    if name == "onnx":
        return Onnx(provider)
    return {"aot_inductor": AotInductor, "tensorrt": TensorRT}[name]() if _is_file(name) else None


def live_backend(name: str) -> LiveBackend | None:
    """Return a backend whose engines live in this process; None for the name of another one.

    Raises:
        InputError: For an unknown name.
    """
    _require_known(name)
    if _is_file(name):
        return None
    return Compiled() if name == "compiled" else Eager()


def preferred(device: torch.device, *, provider: str = "auto") -> tuple[str, ...]:
    """Name the engines that can be used on a device, in the order in which to try them."""
    found = []
    for name in _ON_GPU if device.type == "cuda" else _ON_CPU:
        backend = file_backend(name, provider=provider) or live_backend(name)
        if backend is not None and backend.unavailable(device) is None:
            found.append(name)
    return tuple(found)


def _is_file(name: str) -> bool:
    return name in FILE_ENGINES


def _require_known(name: str) -> None:
    if name not in ENGINE_NAMES:
        raise InputError(f"engine={name}: no such engine{nearest(name, ENGINE_NAMES)}")
