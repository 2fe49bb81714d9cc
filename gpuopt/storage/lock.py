"""Hold a folder for one process: refuse or wait for others; a dead owner's lock is taken over."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from gpuopt.errors import InputError

__all__ = ["FolderLock", "wait_for_folder"]

_logger = logging.getLogger(__name__)
_held: "weakref.WeakSet[IO[str]]" = weakref.WeakSet()


class FolderLock:
    """An advisory lock on a folder, released by the kernel when its owner dies.

    `flock` is held on `<folder>/.lock`; the file also names the owner, only so that the refusal
    can say who it is. Nothing has to be cleaned up after a crash. Forked children do not keep it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._stream: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InputError: When a living process holds the folder; names it. When it cannot be written.
        """
        try:
            self._take(waits=False)
        except OSError as error:
            raise InputError(
                f"{self._path.parent} cannot be written ({error.strerror}): "
                "make it writable, or copy it to where it is"
            ) from error

    def wait(self) -> None:
        """Take the lock as soon as no living process holds it; logs once who does.

        Raises:
            OSError: When the folder cannot be written.
        """
        self._take(waits=True)

    def release(self) -> None:
        """Give the folder back; does nothing when it is not held."""
        if self._stream is not None:
            _held.discard(self._stream)
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

    def _take(self, *, waits: bool) -> None:
        stream = self._path.open("a+", encoding="utf-8")
        _held.add(stream)  # before it is locked: another thread may fork at any time
        try:
            self._lock(stream, waits=waits)
        except BaseException:
            _held.discard(stream)
            stream.close()
            raise
        self._stream = stream
        _sign(stream)

    def _lock(self, stream: IO[str], *, waits: bool) -> None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = _describe(stream.read())
        else:
            return
        folder = self._path.parent
        if not waits:
            raise InputError(
                f"{folder} is in use by {owner}: wait for it, stop it, "
                "or start without naming this folder"
            )
        _logger.info("waiting for %s, which fills %s", owner, folder)
        fcntl.flock(stream, fcntl.LOCK_EX)


@contextlib.contextmanager
def wait_for_folder(folder: Path) -> Iterator[None]:
    """Hold a folder in a block; wait for a living process that holds it, and log once who it is.

    Args:
        folder: Where `.lock` lies; must exist.

    Raises:
        OSError: When the folder cannot be written.
    """
    lock = FolderLock(folder)
    lock.wait()
    try:
        yield
    finally:
        lock.release()


def _sign(stream: IO[str]) -> None:
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
        os.ftruncate(stream.fileno(), 0)
        os.write(stream.fileno(), owner.encode())


def _describe(content: str) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _close_in_child() -> None:
    """Close inherited locks, which would hold the folder for as long as any child lives."""
    for stream in list(_held):
        stream.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
