"""Hold a folder for one process: a second run is refused, a dead owner's lock is taken over."""

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO

from gpuopt.errors import InputError

__all__ = ["FolderLock"]


class FolderLock:
    """An advisory lock on a folder, released by the kernel when its owner dies.

    `flock` is held on `<folder>/.lock`; the file also names the owner, only so that the refusal
    can say who it is. Nothing has to be cleaned up after a crash.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._stream: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InputError: When a living process holds the folder; names it.
        """
        stream = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = _describe(stream.read())
            stream.close()
            raise InputError(
                f"{self._path.parent} is in use by {owner}: wait for it, stop it, "
                "or start without naming this folder"
            ) from None
        stream.seek(0)
        stream.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, stream)
        stream.flush()
        self._stream = stream

    def release(self) -> None:
        """Give the folder back; does nothing when it is not held."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _describe(content: str) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
