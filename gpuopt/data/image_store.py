"""Where decoded images come from: an array, files, or the memory-mapped cache."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpuopt.data.decode import UnreadableImageError, decode_image
from gpuopt.errors import FaultError

__all__ = [
    "ArrayImages",
    "FileImages",
    "ImageStore",
    "MappedImages",
    "RejectedImage",
    "digest_of_files",
]


@dataclass(frozen=True)
class RejectedImage:
    """An image file that was left out.

    Attributes:
        path: The file.
        reason: What is wrong with it, in a few words.
    """

    path: str
    reason: str


class ImageStore(Protocol):
    """Decoded images by row; must be picklable, since loader workers get a copy."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return a fresh, writable uint8 array [n, 3, s, s]."""
        ...

    def fingerprint(self) -> str:
        """Digest what the pixels follow from, such as names, sizes and times of the files."""
        ...


def digest_of_files(paths: Sequence[Path], prefix: str) -> str:
    """Digest the names, sizes and times of files; any change of one makes another digest.

    Args:
        paths: The files.
        prefix: What else decides about their pixels.

    Returns:
        Hexadecimal, 64 digits.
    """
    digest = hashlib.sha256(prefix.encode())
    for path in paths:
        digest.update(b"\0" + os.fsencode(path.absolute()))
        with contextlib.suppress(OSError):
            status = path.stat()
            digest.update(f"\0{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


class ArrayImages:
    """Images that lie in memory.

    Args:
        images: uint8 [count, 3, s, s], or [count, 1, s, s] for grey ones.
    """

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copy the rows; grey fills all three channels."""
        chosen = self._images[rows]
        return chosen if chosen.shape[1] == 3 else np.repeat(chosen, 3, axis=1)

    def fingerprint(self) -> str:
        """Digest the pixels."""
        shape = str(self._images.shape).encode()
        return hashlib.sha256(shape + np.ascontiguousarray(self._images).tobytes()).hexdigest()


class FileImages:
    """Images decoded from their files at every read.

    Args:
        paths: The files.
        image_size: Side of the square that they are fitted into, in pixels.
    """

    def __init__(self, paths: Sequence[Path], image_size: int) -> None:
        self._paths = paths
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Decode the rows.

        Raises:
            FaultError: When a file that was readable before training no longer is.
        """
        out = np.empty((len(rows), 3, self._image_size, self._image_size), np.uint8)
        for place, row in enumerate(rows):
            path = self._paths[row]
            try:
                out[place] = decode_image(path, self._image_size)
            except UnreadableImageError as error:
                raise FaultError(
                    f"{path} cannot be read any more ({error}): "
                    "restore it, or start again to leave it out"
                ) from None
        return out

    def fingerprint(self) -> str:
        """Digest names, sizes and times of the files."""
        return digest_of_files(self._paths, f"{self._image_size}")


class MappedImages:
    """Images in a memory-mapped `.npy` file; processes share its pages.

    Args:
        file: uint8 array [count, 3, s, s] as NumPy saves it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._images: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._images)

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copy the rows out of the map."""
        return np.asarray(self._images[rows])

    def fingerprint(self) -> str:
        """Digest the folder's name, which `open_images` makes from the files' digest."""
        key = f"{self._file.parent.name}/{self._file.name} {self._images.shape}"
        return hashlib.sha256(os.fsencode(key)).hexdigest()

    def __reduce__(self) -> tuple[type["MappedImages"], tuple[Path]]:
        return MappedImages, (self._file,)  # reopened elsewhere, not carried along image by image
