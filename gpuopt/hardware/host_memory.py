"""Keeping the host's memory, where a training step frees and asks for the same again."""

import ctypes

__all__ = ["keep_freed_memory"]

# malloc.h of the GNU C library.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB that it has freed, for as long as it lives.

    The GNU C library gives large blocks back to the system at once, so that every training step on
    a CPU has its activations' pages filled with zeros anew: 110,000 page faults in each step of
    EfficientNet-Lite0, a quarter of its time. Programs under `benchmarks/` measure it.

    Returns:
        False where another C library or allocator is in use, which is left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS and musl have none, Windows no handle
        return False
    # Without the second, blocks beyond 32 MiB would still be mapped one by one.
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_M_MMAP_MAX, 0))
