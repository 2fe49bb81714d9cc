"""What training and prediction share about the device: its checks, settings and faults."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from gpuopt.data import loader_fault
from gpuopt.errors import FaultError, InputError
from gpuopt.hardware import (
    Gpu,
    apply_memory_limit,
    float32_matmul_precision,
    keep_freed_memory,
    refuse_unsupported,
)

__all__ = ["cuda_properties", "faults_in_words", "torch_settings"]

_OFF, _WARNING, _ERROR = 0, 1, 2  # of `torch.get_deterministic_debug_mode`


def cuda_properties(preset: Gpu, devices: int, device_index: int = 0) -> Any | None:
    """Return what torch reports about a CUDA device, or None to run on the processors.

    Args:
        preset: The `gpu=` option; `cpu` leaves a card alone.
        devices: CUDA devices that are asked for on this machine.
        device_index: The one that this process uses.

    Raises:
        InputError: When there are fewer devices, or this PyTorch cannot drive the card.
    """
    if preset.is_cpu or not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    if devices > count:
        raise InputError(f"trainer.devices={devices}: this machine has {count} CUDA device(s)")
    if device_index:  # else every rank would open a context on the first device, too
        torch.cuda.set_device(device_index)
    properties = torch.cuda.get_device_properties(device_index)
    refuse_unsupported(
        properties.name, f"{properties.major}.{properties.minor}", torch.cuda.get_arch_list()
    )
    return properties


@contextlib.contextmanager
def torch_settings(
    *,
    precision: str,
    memory_limit_mib: int | None,
    deterministic: bool,
    accelerator: str,
    device_index: int = 0,
) -> Iterator[None]:
    """Set what there is only once per process; given back afterwards, if it can be.

    On a CPU the process also keeps the memory that it frees, for the rest of its life.

    Args:
        precision: `fp32`, `tf32`, `bf16` or `fp16`; all but fp32 let matrix products and
            convolutions use TF32, which PyTorch lets the latter unless told otherwise.
        memory_limit_mib: Behave as a card of this size; None uses all of it.
        deterministic: Use deterministic algorithms only.
        accelerator: `cuda` or `cpu`; the memory limit is for `cuda` only.
        device_index: The CUDA device that this process uses.

    Raises:
        InputError: When the limit is above the device's memory.
    """
    matmul = float32_matmul_precision(precision)
    before = torch.get_float32_matmul_precision()
    was_deterministic = torch.get_deterministic_debug_mode()
    convolved_in_tf32 = torch.backends.cudnn.allow_tf32
    limited = accelerator == "cuda" and memory_limit_mib is not None
    if accelerator == "cpu":
        keep_freed_memory()
    if limited and memory_limit_mib is not None:
        apply_memory_limit(memory_limit_mib, device_index)
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = matmul != "highest"
    _set_deterministic(_ERROR if deterministic else _OFF)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolved_in_tf32
        _set_deterministic(was_deterministic)
        if limited:
            torch.cuda.memory.set_per_process_memory_fraction(1.0, device_index)


def _set_deterministic(mode: int) -> None:
    # To tell its compiler, PyTorch imports it, which takes seconds.
    if mode != torch.get_deterministic_debug_mode():
        torch.use_deterministic_algorithms(mode != _OFF, warn_only=mode == _WARNING)


@contextlib.contextmanager
def faults_in_words(*, card: str, setting: str, remedy: str) -> Iterator[None]:
    """Word what PyTorch raises when memory, a loader process or a kernel is missing as one line.

    Args:
        card: Name of the device.
        setting: What filled its memory, such as `micro_batch_size=64`.
        remedy: What to do about it.

    Raises:
        FaultError: In place of those errors; all others pass.
        InputError: An operation has no deterministic kernel and only such ones are allowed.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FaultError(f"{card} ran out of memory at {setting}: {remedy}") from error
    except RuntimeError as error:
        fault = loader_fault(error) or _missing_kernel(error)
        if fault is None:
            raise
        raise fault from error


def _missing_kernel(error: RuntimeError) -> InputError | None:
    """Word what PyTorch says of an operation that `trainer.deterministic=true` forbids."""
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not found:
        return None
    return InputError(
        f"trainer.deterministic=true: {operation} has no deterministic kernel on this device; use "
        "trainer.deterministic=false, or another model or image_size"
    )
