"""Images to predict on, whose classes nobody knows, or their folders name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuopt.data.cache import CacheMode, open_images
from gpuopt.data.csv_table import read_csv
from gpuopt.data.dataset import ImageDataset, Split
from gpuopt.data.image_files import (
    IMAGE_SUFFIXES,
    existing_folder,
    list_images,
    listed_files,
    shown,
)
from gpuopt.data.image_store import RejectedImage
from gpuopt.data.loader import WindowLoader
from gpuopt.data.splits import check_rejected
from gpuopt.data.window_sampler import EvaluationSampler
from gpuopt.errors import InputError

__all__ = ["PredictionImages", "prediction_images"]


def prediction_images(
    source: str | Path, image_dir: str | Path | None = None, id_column: str | None = None
) -> list[tuple[str, Path]]:
    """List images to predict on.

    Args:
        source: An image, a folder that is searched to any depth, or a CSV of file names.
        image_dir: Folder that a CSV's names are relative to; None takes the CSV's own folder.
        id_column: Column of a CSV that holds the names; None takes the first one.

    Returns:
        The id (name in the CSV, or path relative to the folder) and file of each image.

    Raises:
        InputError: When there is nothing to predict on, or files of the CSV are missing.
    """
    place = Path(source).expanduser()
    if place.is_file() and place.suffix.lower() in IMAGE_SUFFIXES:
        return [(shown(place.name), place)]
    if place.suffix.lower() == ".csv" and not place.is_dir():
        table = read_csv(place, "data.root")
        ids = table.unique(id_column if id_column is not None else table.names[0])
        folder = Path(image_dir).expanduser() if image_dir is not None else place.parent
        files = listed_files(ids, existing_folder(folder, "data.test_dir"), place)
        return list(zip(ids, files, strict=True))
    found = list_images(existing_folder(place, "data.root"))
    if not found:
        raise InputError(f"{shown(place)} holds no images to predict on")
    return [(shown(file.relative_to(place)), file) for file in found]


class PredictionImages:
    """Images as batches in order, decoded and checked as for training.

    Args:
        images: Id and file of each image, as `prediction_images` lists them.
        image_size: Side of the square images in pixels.
        batch_size: Images per device and batch.
        class_names: Where every image lies in a folder that is named as one of these, such as
            `cat/1.jpg`, the folder is its class; else no class is known.
        num_workers: Loader processes.
        pin_memory: Copy batches to page-locked memory where there is a CUDA device.
        cache: See `ImageDataModule`.
        cache_dir: See `ImageDataModule`.
        cache_limit_gib: See `ImageDataModule`.
        max_rejected_ratio: Share of unreadable images up to which they are left out.
        worker_timeout_s: Seconds after which a silent loader process is taken for dead.

    Raises:
        InputError: When too many images, or all, cannot be read.
    """

    def __init__(
        self,
        images: Sequence[tuple[str, Path]],
        image_size: int,
        batch_size: int,
        *,
        class_names: Sequence[str] = (),
        num_workers: int = 0,
        pin_memory: bool = False,
        cache: CacheMode = "auto",
        cache_dir: str | Path | None = None,
        cache_limit_gib: float = 4.0,
        max_rejected_ratio: float = 0.01,
        worker_timeout_s: float = 30.0,
    ) -> None:
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._worker_timeout_s = worker_timeout_s
        store, reasons = open_images(
            [path for _, path in images],
            image_size,
            cache=cache,
            cache_dir=Path(cache_dir).expanduser() if cache_dir is not None else None,
            cache_limit_gib=cache_limit_gib,
        )
        self.rejected = [
            RejectedImage(shown(images[row][1]), reason) for row, reason in sorted(reasons.items())
        ]
        check_rejected(self.rejected, len(images), max_rejected_ratio)
        rows = np.array([row for row in range(len(images)) if row not in reasons], np.int64)
        if not len(rows):
            raise InputError("none of the images can be read")
        self.ids = [images[row][0] for row in rows]
        self._split = Split(self.ids, _targets(self.ids, class_names), store, rows)

    def __len__(self) -> int:
        return len(self.ids)

    def loader(self, rank: int = 0, world_size: int = 1) -> WindowLoader:
        """Load this rank's images; `Batch.ids` are places in `ids`, unknown targets are -1."""
        return WindowLoader(
            ImageDataset(self._split, seed=0),
            EvaluationSampler(len(self), self._batch_size, rank, world_size),
            num_workers=self._num_workers,
            pin_memory=self._pin_memory,
            timeout_s=self._worker_timeout_s,
        )


def _targets(ids: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class of each image's outermost folder, or -1 for all where one has none."""
    numbers = {name: number for number, name in enumerate(class_names)}
    folders = [id_.partition("/") for id_ in ids]
    found = np.array([numbers.get(name, -1) if slash else -1 for name, slash, _ in folders])
    return found.astype(np.int64) if (found >= 0).all() else np.full(len(ids), -1, np.int64)
