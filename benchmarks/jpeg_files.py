"""The JPEG files that loaders are measured on: drawn documents, and pictures like photographs."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gpuopt.data.drawing import DocumentSet

__all__ = ["FILE_SETS", "make_files"]

FILE_SETS = ("documents", "photographs")
"""Documents as `data=documents` draws them (384 px), and pictures of about 600 x 900 pixels."""

_DRAWN_SIZE = 384
_PHOTOGRAPH_QUALITY = 90
_PHOTOGRAPH_CLASSES = 4


def make_files(name: str, folder: Path, count: int) -> Path:
    """Write JPEG files as `train/<class>/<file>` and one of each class again under `val`.

    Args:
        name: One of `FILE_SETS`.
        folder: Where to; made when missing.
        count: Files under `train`.

    Returns:
        The folder that holds `train` and `val`.
    """
    root = folder / name
    for number, (label, file) in enumerate(_files(name, folder / f"{name}_drawn", count)):
        for split in ("train", "val"):
            target = root / split / f"class_{label:02d}"
            if split == "val" and target.exists():
                continue
            target.mkdir(parents=True, exist_ok=True)
            os.link(file, target / f"{number:05d}.jpg")
    return root


def _files(name: str, folder: Path, count: int) -> Iterator[tuple[int, Path]]:
    folder.mkdir(parents=True)
    if name == "documents":
        documents = DocumentSet(seed=0, train_count=count, test_count=1, size_px=_DRAWN_SIZE)
        documents.draw(folder)
        pairs = zip(documents.samples(), documents.files(folder), strict=True)
        yield from ((sample.target, file) for sample, file in list(pairs)[:count])
        return
    for number in range(count):
        file = folder / f"{number}.jpg"
        _photograph(number).save(file, "JPEG", quality=_PHOTOGRAPH_QUALITY)
        yield number % _PHOTOGRAPH_CLASSES, file


def _photograph(seed: int) -> Image.Image:
    """Make a picture whose detail falls off with frequency as in photographs (about 1/f).

    At quality 90 its file has about 1.7 bits a pixel, as photographs have.
    """
    numbers = np.random.default_rng(seed)
    width, height = int(numbers.integers(560, 640)), int(numbers.integers(850, 950))
    if seed % 3 == 0:
        width, height = height, width
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(9):
        size = (max(2, width >> octave), max(2, height >> octave))
        noise = numbers.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(layer, np.float32) - 127.5) * 1.45**octave
    scaled = 127.5 + total * (55.0 / total.std())
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
