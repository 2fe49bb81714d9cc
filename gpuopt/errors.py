"""Every error that ends a command on purpose, with its exit code.

    GpuoptError           1   a bug, or anything else unexpected
    ├── InputError        2   what the user gave cannot be used; nothing was written
    ├── FaultError        3   the machine failed: disk full, worker killed, loss not finite
    ├── TargetNotMetError 4   a stated goal was not reached
    └── PreemptedError   75   stopped on request with a checkpoint; the run can be resumed

A message is one line that says what is wrong, where, and what to do about it.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "FaultError",
    "GpuoptError",
    "InputError",
    "PreemptedError",
    "TargetNotMetError",
    "nearest",
    "one_line",
]


class GpuoptError(Exception):
    """Base of all errors that gpuopt raises itself."""

    exit_code = 1


class InputError(GpuoptError):
    """What the user gave cannot be used."""

    exit_code = 2


class FaultError(GpuoptError):
    """The machine, a disk or a process failed while the input was fine."""

    exit_code = 3


class TargetNotMetError(GpuoptError):
    """The command worked, but a goal that the user stated was not reached."""

    exit_code = 4


class PreemptedError(GpuoptError):
    """The run was asked to stop, saved what it had, and can be resumed."""

    exit_code = 75


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Word the names closest to a wrong one, ready to end an error message.

    Args:
        name: What the user typed.
        known: What would have been accepted.
        count: How many names to offer.

    Returns:
        `" (nearest: a, b)"`, or all names when there are only a few, or an empty string.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f" (nearest: {', '.join(close)})"
    return f" (known: {', '.join(names)})" if 0 < len(names) <= 12 else ""


def one_line(text: str, limit: int = 2000) -> str:
    """Write a message on one line of bounded length, whatever the words in it hold.

    Control characters, which could move the cursor or hide text, are spelled out. Of what is too
    long the middle is left out, because the remedy stands at the end.

    Args:
        text: The message.
        limit: Most characters.
    """
    spelled = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
    if len(spelled) <= limit:
        return spelled
    half = (limit - 5) // 2
    return f"{spelled[:half]} ... {spelled[-half:]}"
