"""From what a data set lists to splits whose every image can be read."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuopt.data.dataset import Split
from gpuopt.data.image_files import shown
from gpuopt.data.image_store import ImageStore, RejectedImage
from gpuopt.data.splitting import stratified_split
from gpuopt.errors import InputError

__all__ = ["DataSets", "ImageSet", "Splits", "check_rejected", "open_splits"]

OpenFiles = Callable[[Sequence[Path]], tuple[ImageStore, dict[int, str]]]


@dataclass(frozen=True)
class ImageSet:
    """Labelled images as a data set lists them.

    Attributes:
        ids: Names by which a person knows the samples, unique in the set.
        targets: int64 [samples], the class; -1 where unknown, in a test set only.
        images: A list of files, which are then decoded, checked and cached, or a store of images
            that have the right size already, one per sample.
    """

    ids: Sequence[str]
    targets: npt.NDArray[np.int64]
    images: list[Path] | ImageStore


@dataclass(frozen=True)
class DataSets:
    """What a data set consists of.

    Attributes:
        class_names: Name of each class, in the order of the targets.
        train: Training images.
        validation: Validation images; None splits them off the training images.
        test: Test images; None tests on the validation images.
    """

    class_names: Sequence[str]
    train: ImageSet
    validation: ImageSet | None = None
    test: ImageSet | None = None


@dataclass(frozen=True)
class Splits:
    """Splits that are ready to be loaded.

    Attributes:
        class_names: Name of each class.
        train: Training samples.
        validation: Validation samples, none of them in `train`.
        test: Test samples; `validation` when the data set has no test images.
        has_test_set: Whether `test` is more than the validation samples.
        rejected: Files that were left out.
    """

    class_names: Sequence[str]
    train: Split
    validation: Split
    test: Split
    has_test_set: bool
    rejected: Sequence[RejectedImage]

    def fingerprint(self) -> str:
        """Digest the ids and targets of all splits."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(f"{len(split)}\n".encode())
            for name, target in zip(split.ids, split.targets, strict=True):
                digest.update(f"{name}\t{target}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def open_splits(
    sets: DataSets,
    open_files: OpenFiles,
    *,
    validation_ratio: float,
    max_rejected_ratio: float,
    seed: int,
) -> Splits:
    """Leave out unreadable files and split off validation samples.

    Args:
        sets: What the data set lists.
        open_files: Opens a list of files and says which rows cannot be read, and why.
        validation_ratio: Share of the training images to validate on, where there is no set of
            their own.
        max_rejected_ratio: Greatest share of unreadable files.
        seed: Seed of the split.

    Raises:
        InputError: For no images, a single class, a class of one image, or too many unreadable
            files.
    """
    parts = {"training": sets.train, "validation": sets.validation, "test": sets.test}
    opened, rejected = _open_parts(
        {name: part for name, part in parts.items() if part is not None},
        open_files,
        max_rejected_ratio,
    )
    train, places = opened["training"]
    _check_classes(train, sets.class_names)
    if "validation" in opened:
        validation, _ = opened["validation"]
    else:
        first, second = stratified_split(
            train.targets, validation_ratio, seed, sets.class_names, places
        )
        train, validation = train.take(first), train.take(second)
    test, _ = opened.get("test", (validation, places))
    return Splits(sets.class_names, train, validation, test, "test" in opened, rejected)


def _open_parts(
    parts: Mapping[str, ImageSet], open_files: OpenFiles, max_rejected_ratio: float
) -> tuple[dict[str, tuple[Split, npt.NDArray[np.int64]]], list[RejectedImage]]:
    """Open all files in one go; returns each part without its unreadable rows, and its rows."""
    for name, part in parts.items():
        _check_any(name, len(part.targets))
    files = [
        path for part in parts.values() if isinstance(part.images, list) for path in part.images
    ]
    store, reasons = open_files(files) if files else (None, {})
    rejected = [RejectedImage(shown(files[row]), reason) for row, reason in sorted(reasons.items())]
    check_rejected(rejected, len(files), max_rejected_ratio)
    opened = {}
    offset = 0
    for name, part in parts.items():
        rows = np.arange(len(part.targets))
        places = rows
        images = part.images
        if isinstance(images, list):
            assert store is not None  # opened above, since this part has files
            images, rows = store, rows + offset
            places = np.array([i for i, row in enumerate(rows) if row not in reasons], np.int64)
            offset += len(rows)
        _check_any(name, len(places))
        opened[name] = (Split(part.ids, part.targets, images, rows).take(places), places)
    return opened, rejected


def check_rejected(rejected: Sequence[RejectedImage], total: int, max_ratio: float) -> None:
    """Refuse data of which too much cannot be read.

    Args:
        rejected: Files that cannot be read.
        total: Files in all.
        max_ratio: Greatest share accepted.

    Raises:
        InputError: With the count and the first three files.
    """
    if len(rejected) <= max_ratio * total:
        return
    first = ", ".join(f"{image.path}: {image.reason}" for image in rejected[:3])
    more = ", ..." if len(rejected) > 3 else ""
    raise InputError(
        f"{len(rejected)} of {total} images cannot be read ({first}{more}): repair or remove "
        f"them, or raise data.max_rejected_ratio above {max_ratio:g}"
    )


def _check_any(part: str, count: int) -> None:
    if not count:
        raise InputError(f"there are no {part} images that can be read: check their folder")


def _check_classes(train: Split, class_names: Sequence[str]) -> None:
    present = np.unique(train.targets)
    if len(present) < 2:
        raise InputError(
            f"all training images are of class {class_names[present[0]]}: "
            "a classifier needs at least two classes"
        )
