"""The size and checksum beside a checkpoint, by which a damaged file is told from a good one.

A flipped byte in a tensor loads without a word, so a checkpoint is trusted only when its sidecar
vouches for it. `last.ckpt` and its sidecar are two files and cannot be renamed in one step;
therefore the sidecar vouches for the file that is there *and* for the one about to replace it,
and whichever the crash leaves behind is valid.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpuopt.storage.atomic import write_json

__all__ = ["FileRecord", "IntactFile", "Sidecar", "sha256_of"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """What a checkpoint file must look like.

    Attributes:
        size_bytes: Length of the file.
        sha256: Hexadecimal digest of the content.
        step: Optimizer steps taken when it was written.
        epoch: Epochs finished when it was written.
    """

    size_bytes: int
    sha256: str
    step: int
    epoch: int


@dataclass(frozen=True)
class IntactFile:
    """A file at the moment at which it was digested.

    Attributes:
        path: The file.
        sha256: Hexadecimal digest of the content.
        stamp: What the file system tells about the content without reading it.
    """

    path: Path
    sha256: str
    stamp: tuple[int, ...]

    @classmethod
    def of_run(cls, path: Path) -> "IntactFile | None":
        """Digest a file and compare it with its sidecar; None when that does not vouch for it."""
        try:
            stamp = _stamp(path)
        except OSError:
            return None
        record = Sidecar(path).match()
        return None if record is None else cls(path, record.sha256, stamp)

    @classmethod
    def of_any(cls, path: Path) -> "IntactFile":
        """Digest a file that no sidecar has to vouch for."""
        stamp = _stamp(path)
        return cls(path, sha256_of(path), stamp)

    def is_unchanged(self, path: Path) -> bool:
        """Whether a path is this file and nobody has written to it since."""
        try:
            return path == self.path and _stamp(path) == self.stamp
        except OSError:
            return False


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Sidecar:
    """The list of contents that a file may have, stored as `<file>.json`, newest first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.path = file.with_name(f"{file.name}.json")

    def records(self) -> list[FileRecord]:
        """Read what the sidecar vouches for; an absent or broken one vouches for nothing."""
        try:
            content = json.loads(self.path.read_text("utf-8"))
            return [FileRecord(**record) for record in content["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def vouch(self, *records: FileRecord) -> None:
        """Replace the sidecar.

        Args:
            records: Accepted contents, newest first.
        """
        write_json(self.path, {"schema": 1, "files": [asdict(record) for record in records]})

    def match(self) -> FileRecord | None:
        """Return the record that the file's present content fulfils, or None."""
        try:
            size_bytes = self._file.stat().st_size
        except OSError:
            return None
        candidates = [record for record in self.records() if record.size_bytes == size_bytes]
        if not candidates:
            return None
        digest = sha256_of(self._file)
        return next((record for record in candidates if record.sha256 == digest), None)


def sha256_of(path: Path) -> str:
    """Digest a file in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
