"""Keeping the host's memory that a step will ask for again, and giving it back before a reading."""

import ctypes

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# malloc.h of the GNU C library.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for as long as it and its children live.

    The GNU C library gives large blocks back to the system at once, so that every training step on
    a CPU has its activations' pages filled with zeros anew: 130,000 page faults in each step of
    EfficientNet-Lite0, a third of its time (`benchmarks/freed_memory.py`). Afterwards only free
    memory at the end of the heap goes back, and only beyond 1 GiB.

    Returns:
        False where there is no such setting. Another allocator that was loaded before the
        C library's is not affected by it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS and musl have none, Windows no handle
        return False
    # Without the second, blocks beyond 32 MiB would still be mapped one by one.
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_M_MMAP_MAX, 0))


def give_back_freed_memory() -> bool:
    """Give what this process has freed back to the system, which it may do once at any time.

    Else what it, or a process that it forks, keeps from then on fills those pages first, and the
    resident memory does not show it.

    Returns:
        False where the C library has no such call, or where nothing was given back.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False
