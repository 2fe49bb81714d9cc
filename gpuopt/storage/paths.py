"""Folders that a setting names, and paths as people are shown them."""

import os
from pathlib import Path

from gpuopt.errors import InputError

__all__ = ["existing_folder", "place_below", "shown"]


def shown(path: Path | str) -> str:
    """Word a path so that it can be written as UTF-8, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def existing_folder(folder: Path, key: str) -> Path:
    """Return the folder if it is one.

    Raises:
        InputError: When it is missing, a file, or not to be read; names the key.
    """
    if not folder.exists():
        raise InputError(f"there is no folder {shown(folder)}: set {key} to the folder of images")
    if not folder.is_dir():
        raise InputError(f"{key}={shown(folder)} is a file: give the folder of images")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{key}={shown(folder)} cannot be read: change its permissions")
    return folder


def place_below(root: str | Path | None, place: str | Path) -> Path:
    """Return a place that is relative to a folder, or to the present one; `~` is the home."""
    return Path(root or ".").expanduser() / Path(place).expanduser()
