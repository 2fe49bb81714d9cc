"""What a command does goes on when nobody reads any more what it prints, as after `| head`."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

__all__ = ["going_on_unread"]


@contextlib.contextmanager
def going_on_unread() -> Iterator[None]:
    """Send stdout and stderr nowhere from the moment that their reader has left.

    A closed terminal program or an ended `tee` then costs lines on the screen, and not hours of
    work.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Unbreakable(before[0]), _Unbreakable(before[1])
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # at its end Python would complain
        sys.stdout, sys.stderr = before


class _Unbreakable:
    """A stream that goes to the null device when its pipe is broken."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or let it vanish."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._vanish()
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is left."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._vanish()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _vanish(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
