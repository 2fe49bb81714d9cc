"""Write a file so that a reader sees the old content or the new one, never a part.

The temporary file lies in the target's own folder: a rename is atomic only within one file
system, and a full `/tmp` must not stop a run whose own disk has room.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_write", "create_text", "sync_folder", "write_json", "write_text"]


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that takes the place of `path` when the block ends well.

    The content is on the disk (fsync of file and folder) before the name changes. When the block
    raises, `path` keeps its old content and the temporary file is removed.

    Args:
        path: The file to write; its folder must exist.
        mode: `"wb"` for bytes or `"w"` for UTF-8 text.

    Raises:
        OSError: When the disk is full or the folder cannot be written.
    """
    encoding = None if "b" in mode else "utf-8"
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; results are to be shared
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one piece."""
    with atomic_write(path, "w") as stream:
        stream.write(text)


def create_text(path: Path, text: str) -> None:
    """Make a new text file in one piece; an existing one, even one made meanwhile, stays.

    Raises:
        FileExistsError: When there is something of that name.
        OSError: When the disk is full or the folder cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        try:
            os.link(temporary, path)  # unlike a rename this replaces nothing
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if path.exists():
                raise FileExistsError(path) from None
            temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one piece; refuses NaN, which other readers cannot parse."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
