"""A log of samples: one JSON object a line, of which no line is ever half written.

Each line is written at once and in one piece, so a monitor that is killed leaves at most one torn
line, and one that meets a full disk none at all.
"""

import errno
import fcntl
import json
import logging
import os
from pathlib import Path
from typing import IO, Any

from gpuopt.errors import InputError
from gpuopt.telemetry.record import SCHEMA, to_record
from gpuopt.telemetry.sample import Sample

__all__ = ["LONGEST_LINE_BYTES", "JsonlLog"]

_log = logging.getLogger(__name__)

LONGEST_LINE_BYTES = 4 << 20


class JsonlLog:
    """Appends samples to a file, which is held against other monitors meanwhile.

    Args:
        path: The file; its folder is made. An existing log is gone on with, and a line in it that
            a killed monitor left torn is ended.

    Attributes:
        written: Samples written.
        lost: Samples that could not be written.
        reason: Why the newest of these was lost.

    Raises:
        InputError: When the file cannot be written, is no log, or another monitor writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = self.lost = 0
        self.reason = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what a full disk has refused would be written at the next occasion.
            self._stream = path.open("a+b", buffering=0)
        except OSError as error:
            raise InputError(
                f"log={path} cannot be written ({error.strerror}): name another file"
            ) from error
        try:
            self._take()
        except BaseException:
            self._stream.close()
            raise

    def write(self, sample: Sample) -> None:
        """Append a sample; a full disk costs samples, not the monitor, and is said once."""
        line = json.dumps(to_record(sample), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            _append(self._stream, line.encode())
        except OSError as error:
            self.reason = error.strerror or str(error)
            if not self.lost:
                _log.warning("log=%s: samples are lost (%s)", self.path, self.reason)
            self.lost += 1
        else:
            self.written += 1

    def close(self) -> None:
        """Bring all lines to the disk and let others write the file."""
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a pipe has nothing to bring
                self.reason = error.strerror or str(error)
                _log.warning("log=%s is perhaps not on the disk (%s)", self.path, self.reason)
        self._stream.close()

    def _take(self) -> None:
        """Hold the file, and refuse one that is no log."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"log={self.path} is written by another monitor: name another file"
            ) from None
        except OSError:  # a file system without locks
            _log.warning("log=%s cannot be held against other monitors", self.path)
        if not self._stream.seekable():
            return
        size_bytes = self._stream.seek(0, os.SEEK_END)
        if size_bytes == 0:
            return
        self._stream.seek(0)
        if not _is_record(self._stream.readline(LONGEST_LINE_BYTES), ends=size_bytes):
            raise InputError(f"log={self.path} is no log of gpuopt: name another file")
        self._stream.seek(size_bytes - 1)
        if self._stream.read(1) != b"\n":
            try:
                _append(self._stream, b"\n")
            except OSError as error:
                raise InputError(
                    f"log={self.path} cannot be written ({error.strerror}): name another file"
                ) from error


def _is_record(line: bytes, *, ends: int) -> bool:
    """Tell whether the first line of a file is one of a log, or the torn only one."""
    if not line.endswith(b"\n") and len(line) == ends:
        return line.startswith(b'{"schema": ')
    try:
        record: Any = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("schema") == SCHEMA


def _append(stream: IO[bytes], content: bytes) -> None:
    """Write all or nothing."""
    start = os.fstat(stream.fileno()).st_size
    left = memoryview(content)
    try:
        while left:
            left = left[stream.write(left) :]
    except OSError:
        if len(left) < len(content):
            stream.truncate(start)
        raise
