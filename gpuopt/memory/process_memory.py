"""What this process and its workers hold on the host: pages, and tensors that Python knows."""

import contextlib
import gc
import multiprocessing
import os
from pathlib import Path

import torch
from torch import Tensor

__all__ = [
    "live_tensor_bytes",
    "live_tensors",
    "resident_bytes",
    "storage_bytes",
    "worker_bytes",
]

_STATM = Path("/proc/self/statm")
_PROC = Path("/proc")
# Of other classes, such as tensors without data, the storage cannot be asked for.
_KINDS = (Tensor, torch.nn.Parameter)


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None where the system does not tell."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def worker_bytes() -> int | None:
    """Return what processes of `multiprocessing` hold, such as a loader's.

    Without files and shared memory, and without other children, such as compilers, which come and
    go. None where the system does not tell.
    """
    if not _STATM.exists():
        return None
    pages = 0
    for process in multiprocessing.active_children():
        # One that ends meanwhile holds nothing.
        with contextlib.suppress(OSError, ValueError, IndexError):
            statm = (_PROC / str(process.pid) / "statm").read_text("ascii")
            resident, shared = statm.split()[1:3]
            pages += int(resident) - int(shared)
    return pages * os.sysconf("SC_PAGE_SIZE")


def live_tensors() -> list[Tensor]:
    """List the strided tensors that Python knows, also those that a graph keeps for it."""
    # `isinstance` would ask the objects, of which some warn when they are asked for anything.
    found = [one for one in gc.get_objects() if type(one) in _KINDS]
    return [one for one in found if one.layout == torch.strided and not one.is_meta]


def live_tensor_bytes() -> int:
    """Return the bytes of the storages in host memory that a tensor known to Python uses."""
    return sum(storage_bytes(live_tensors(), "cpu").values())


def storage_bytes(tensors: list[Tensor], kind: str) -> dict[int, int]:
    """Return the bytes of each storage of a kind of device, by its address.

    Args:
        tensors: Strided ones.
        kind: Such as `cpu`.
    """
    found: dict[int, int] = {}
    for tensor in tensors:
        if tensor.device.type == kind:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found
