"""The shared memory through which loader processes hand their batches over.

Docker gives a container 64 MiB of it. PyTorch's loaders then die by SIGBUS, or wait for ever for a
batch that could not be stored.
"""

import os
from pathlib import Path

__all__ = ["full_shared_memory", "workers_that_fit"]

_PLACE = Path("/dev/shm")
_FULL_RATIO = 0.1
_MIB = 2**20


def workers_that_fit(
    batch_bytes: int, place: Path = _PLACE, *, prefetch_factor: int = 2
) -> int | None:
    """Count the loader processes whose batches fit into what is free.

    Args:
        batch_bytes: Size of one batch.
        place: Where shared memory is mounted.
        prefetch_factor: Batches that each process holds ready; one more is being filled.

    Returns:
        The number, or None where the system tells no size.
    """
    sizes = _sizes_bytes(place)
    return None if sizes is None else sizes[1] // max(1, batch_bytes * (prefetch_factor + 1))


def full_shared_memory(place: Path = _PLACE) -> str | None:
    """Say how full the shared memory is when next to nothing is left of it, or when it is tiny.

    Returns:
        Such as `/dev/shm holds 64 MiB, 2 MiB are free`; None when that is no problem.
    """
    sizes = _sizes_bytes(place)
    if sizes is None:
        return None
    total, free = sizes
    if total > 2 * _MIB and free > total * _FULL_RATIO:
        return None
    return f"{place} holds {total // _MIB} MiB, {free // _MIB} MiB are free"


def _sizes_bytes(place: Path) -> tuple[int, int] | None:
    """Return size and free bytes."""
    try:
        status = os.statvfs(place)
    except (OSError, AttributeError):  # macOS has no such folder
        return None
    return status.f_frsize * status.f_blocks, status.f_frsize * status.f_bavail
