"""A file that only grows, record by record, and that a killed process can go on with.

Each record carries its size and checksum. A process that dies, or a machine that loses power,
leaves at most a torn record at the end, which is cut off when the file is opened again; so no
record has to be synced, and none that was written whole is lost with the process.
"""

import errno
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from gpuopt.errors import InputError

__all__ = ["Journal"]

_MAGIC = b"gpuopt journal 1\n"
_HEAD = struct.Struct("<QI")  # bytes of the record, and their CRC-32
_LARGEST_HEADER_BYTES = 1 << 20  # a larger size is a damaged one


class Journal:
    """Records behind a header, held by one process at a time.

    Args:
        path: The file; its folder must exist.
        header: Written into a new file, or one that was not begun, see `is_begun`. None goes on
            with the one that is there, whose header is kept and whose torn end is cut off.

    Attributes:
        header: What the file was begun with.
        count: Whole records in it.

    Raises:
        InputError: When the file is no journal, or a living process holds it.
        OSError: When it cannot be read or written, or a new one exists already.
    """

    def __init__(self, path: Path, header: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.count = 0
        # Without a buffer: what a full disk has refused would be written at the next occasion.
        is_there = header is None or (path.exists() and not Journal.is_begun(path))
        self._stream = path.open("r+b" if is_there else "x+b", buffering=0)
        try:
            self._hold()
            if header is None:
                self.header = self._recover()
            else:
                self.header = dict(header)
                self._begin()
        except BaseException:
            self._stream.close()
            raise

    @staticmethod
    def is_begun(path: Path) -> bool:
        """Tell whether there is more in a file than the first bytes of a journal's header.

        A process that is killed while it begins leaves no more than that.

        Raises:
            OSError: When the file cannot be read.
        """
        with path.open("rb") as stream:
            content = stream.read(len(_MAGIC) + _HEAD.size)
            if not content.startswith(_MAGIC):
                return not _MAGIC.startswith(content)
            head = content[len(_MAGIC) :]
            if len(head) < _HEAD.size:
                return False
            size_bytes, _ = _HEAD.unpack(head)
            left_bytes = os.fstat(stream.fileno()).st_size - len(content)
            return not left_bytes < size_bytes <= _LARGEST_HEADER_BYTES

    def append(self, payload: bytes) -> None:
        """Add a record; it outlives the process from here on.

        Raises:
            OSError: When the disk is full; the records before are kept.
        """
        self._put(_framed(payload))
        self.count += 1

    def records(self) -> Iterator[bytes]:
        """Read all whole records in order, one at a time."""
        with self.path.open("rb") as stream:
            _read_header(stream)
            for _ in range(self.count):
                record = _next_record(stream)
                assert record is not None  # counted when it was written or found
                yield record

    def close(self) -> None:
        """Let others open the file."""
        self._stream.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hold(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path} is being written by another process: wait for it, stop it, or name "
                "another output"
            ) from None

    def _begin(self) -> None:
        """Write the header; where that fails there is no file."""
        if Journal.is_begun(self.path):  # by another process, a moment ago
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))
        try:
            self._stream.truncate(0)
            self._put(_MAGIC + _framed(json.dumps(self.header).encode()))
        except BaseException:
            self.path.unlink()
            raise

    def _recover(self) -> dict[str, Any]:
        with self.path.open("rb") as stream:
            header = _read_header(stream)
            if header is None:
                raise InputError(
                    f"{self.path} is damaged, or no file of gpuopt: delete it to begin anew"
                )
            end = stream.tell()
            while _next_record(stream) is not None:
                self.count += 1
                end = stream.tell()
        self._stream.seek(end)
        self._stream.truncate()
        return header

    def _put(self, content: bytes) -> None:
        start, left = self._stream.tell(), memoryview(content)
        try:
            while left:
                left = left[self._stream.write(left) :]
        except BaseException:  # also a signal, so that the next record follows a whole one
            self._stream.seek(start)
            self._stream.truncate()
            raise


def _framed(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _read_header(stream: IO[bytes]) -> dict[str, Any] | None:
    if stream.read(len(_MAGIC)) != _MAGIC:
        return None
    try:
        header = json.loads(_next_record(stream) or b"")
    except ValueError:
        return None
    return header if isinstance(header, dict) else None


def _next_record(stream: IO[bytes]) -> bytes | None:
    """Read one record; None at the end, and where it is torn or damaged."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    size_bytes, checksum = _HEAD.unpack(head)
    # A damaged size may be anything: nothing is read that is not there.
    if size_bytes > os.fstat(stream.fileno()).st_size - stream.tell():
        return None
    payload = stream.read(size_bytes)
    return payload if zlib.crc32(payload) == checksum else None
