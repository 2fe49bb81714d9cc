"""Decode every image once: into a memory map, or at least to know that each can be read."""

import contextlib
import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from gpuopt.data.decode import UnreadableImageError, decode_image
from gpuopt.data.image_store import FileImages, ImageStore, MappedImages, digest_of_files
from gpuopt.data.parallel_rows import work_through
from gpuopt.data.row_ledger import RowLedger
from gpuopt.errors import FaultError, GpuoptError, InputError
from gpuopt.storage import default_cache_dir, wait_for_folder

__all__ = ["CacheMode", "open_images"]

CacheMode = Literal["off", "on", "auto"]
"""Keep decoded images: never, always, or below a total size."""

_VERSION = 2  # raise it whenever decode_image makes other pixels
_logger = logging.getLogger(__name__)


def open_images(
    paths: Sequence[Path],
    image_size: int,
    *,
    cache: CacheMode = "auto",
    cache_dir: Path | None = None,
    cache_limit_gib: float = 4.0,
) -> tuple[ImageStore, dict[int, str]]:
    """Open image files, all of which have been decoded at least once.

    The cache lies in a folder named after the files' names, sizes and times and the image size,
    so that any change makes a new one. Interrupted work goes on where it stopped.

    Args:
        paths: The files.
        image_size: Side of the decoded squares in pixels.
        cache: Whether to keep the decoded images.
        cache_dir: Folder of all caches; None means the user's cache folder.
        cache_limit_gib: What `auto` keeps at most, in GiB.

    Returns:
        The images, and for each row that cannot be read the reason.

    Raises:
        InputError: When `cache=on` and the folder cannot be written.
        FaultError: When `cache=on` and the disk is full, or a process is killed or stuck. With
            `auto` a full disk is one warning, and the images are read from their files.
    """
    size_bytes = len(paths) * 3 * image_size**2
    keeps = cache == "on" or (cache == "auto" and size_bytes <= cache_limit_gib * 2**30)
    base = (cache_dir or default_cache_dir()) / "images"
    if keeps:
        try:
            return _cached(paths, image_size, base / f"{_key(paths, image_size)}_{image_size}px")
        except OSError as error:
            if cache == "on":
                raise _refusal(base, error) from None
            _logger.warning("decoded images are not kept: %s (%s)", error.strerror or error, base)
    return FileImages(paths, image_size), _verified(paths, base / f"{_key(paths, 0)}_verified")


def _refusal(base: Path, error: OSError) -> GpuoptError:
    reason = f"{base} ({error.strerror or error})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FaultError(
            f"decoded images do not fit in {reason}: free some room and run the command again, "
            "or set cache_dir to another folder or data.cache=off"
        )
    return InputError(
        f"decoded images cannot be kept in {reason}: "
        "set cache_dir to another folder or data.cache=off"
    )


@dataclass(frozen=True)
class _DecodeInto:
    """Decodes files into their rows of a memory map."""

    file: Path
    image_size: int

    def __call__(self, rows: npt.NDArray[np.int64], paths: Sequence[Path]) -> dict[int, str]:
        images = np.load(self.file, mmap_mode="r+")
        rejected = {}
        for row, path in zip(rows, paths, strict=True):
            try:
                images[row] = decode_image(path, self.image_size)
            except UnreadableImageError as error:
                rejected[int(row)] = str(error)
        return rejected


def _verify(rows: npt.NDArray[np.int64], paths: Sequence[Path]) -> dict[int, str]:
    rejected = {}
    for row, path in zip(rows, paths, strict=True):
        try:
            decode_image(path, 32)  # reads the whole file all the same
        except UnreadableImageError as error:
            rejected[int(row)] = str(error)
    return rejected


def _cached(
    paths: Sequence[Path], image_size: int, folder: Path
) -> tuple[MappedImages, dict[int, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    file, shape = folder / "images.npy", (len(paths), 3, image_size, image_size)
    with wait_for_folder(folder):
        ledger = RowLedger(folder / "ledger.json", len(paths))
        if not _holds(file, shape):
            ledger.clear()
            _create(file, shape)
        if not ledger.complete:
            images = np.load(file, mmap_mode="r+")

            def save() -> None:
                images.flush()  # pixels reach the disk before the ledger vouches for them
                ledger.save()

            title = f"decoding images to {image_size} px"
            work_through(_DecodeInto(file, image_size), paths, ledger, title=title, save=save)
    return MappedImages(file), ledger.rejected


def _verified(paths: Sequence[Path], folder: Path) -> dict[int, str]:
    ledger = RowLedger(folder / "ledger.json", len(paths))

    def save() -> None:
        with contextlib.suppress(OSError):  # what is not remembered is checked at the next start
            ledger.save()

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(wait_for_folder(folder))
        if not ledger.complete:
            work_through(_verify, paths, ledger, title="checking images", save=save)
    return ledger.rejected


def _create(file: Path, shape: tuple[int, ...]) -> None:
    file.unlink(missing_ok=True)
    try:
        images = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
        offset, size_bytes = images.offset, images.nbytes
        del images
        # Writing to a hole of a memory map on a full disk kills the process: claim the room first.
        with file.open("r+b") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, offset + size_bytes)
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _holds(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        images = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(images.shape == shape and images.dtype == np.uint8)


def _key(paths: Sequence[Path], image_size: int) -> str:
    return digest_of_files(paths, f"{_VERSION} {image_size}")[:20]
