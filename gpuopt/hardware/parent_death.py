"""A signal at the death of the process that started this one, which Linux's kernel can send."""

import ctypes
import sys
from collections.abc import Callable

__all__ = ["signal_at_parents_death"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _find() -> Callable[[int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return found


_PRCTL = _find()  # now: between fork and exec little is safe, and loading a library is not


def signal_at_parents_death(number: int) -> bool:
    """Ask for a signal to this process, also between fork and exec.

    The kernel takes the end of the thread that forked for the death of the parent. A parent that
    died before is not noticed: compare `os.getppid()` afterwards.

    Args:
        number: Such as `signal.SIGKILL`.

    Returns:
        False where no kernel can do that.
    """
    return _PRCTL is not None and _PRCTL(_PR_SET_PDEATHSIG, int(number)) == 0
