"""Finding image files in folders, and file names that come from a list."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from gpuopt.errors import InputError
from gpuopt.storage import existing_folder, shown

__all__ = ["IMAGE_SUFFIXES", "existing_folder", "list_images", "listed_files", "shown"]

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "jp2", "avif"),
    )
)
"""Endings of files that are taken for images, in lower case; others are passed over."""


def list_images(folder: Path) -> list[Path]:
    """List the images in a folder and below it, sorted, without hidden files and folders."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        )
    return sorted(found)


def listed_files(ids: Sequence[str], folder: Path, source: Path) -> list[Path]:
    """Find the files that a list names, with or without their ending.

    Args:
        ids: File names relative to the folder.
        folder: Where the files lie.
        source: The list, for the errors.

    Raises:
        InputError: When a name leads out of the folder, or files are missing.
    """
    paths = [_found(_inside(name, folder, source)) for name in ids]
    missing = [name for name, path in zip(ids, paths, strict=True) if path is None]
    if missing:
        first, more = ", ".join(missing[:3]), ", ..." if len(missing) > 3 else ""
        raise InputError(
            f"{len(missing)} of {len(ids)} files of {shown(source)} are not in "
            f"{shown(folder)} ({first}{more}): check the folder and the id column"
        )
    return [path for path in paths if path is not None]


def _inside(name: str, folder: Path, source: Path) -> Path:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    leads_out = posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts)
    if leads_out or "\0" in name or not posix.parts:
        raise InputError(
            f"{shown(source)} names {name!r}, which is no file inside {shown(folder)}: correct it"
        )
    return folder / name


def _found(path: Path) -> Path | None:
    if os.path.lexists(path) and not path.is_dir():
        return path  # a broken link is found here, and reported later as unreadable
    endings = sorted(IMAGE_SUFFIXES)
    candidates = (path.with_name(path.name + ending) for ending in endings)
    return next((candidate for candidate in candidates if os.path.lexists(candidate)), None)
