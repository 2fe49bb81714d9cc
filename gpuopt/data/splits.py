"""From what a data set lists to splits whose every image can be read."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuopt.data.dataset import Split
from gpuopt.data.folds import assign_folds, check_folds
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
        groups: Name of each sample's group, such as a patient; in the training set no group is
            both trained and validated on. None: every sample stands alone.
    """

    ids: Sequence[str]
    targets: npt.NDArray[np.int64]
    images: list[Path] | ImageStore
    groups: Sequence[str] | None = None


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
    folds: int | None = None,
    fold: int | None = None,
) -> Splits:
    """Leave out unreadable files and split off validation samples.

    Args:
        sets: What the data set lists.
        open_files: Opens a list of files and says which rows cannot be read, and why.
        validation_ratio: Share of the training images to validate on, where there is no set of
            their own. Groups are split by a whole number of folds that comes closest to it.
        max_rejected_ratio: Greatest share of unreadable files.
        seed: Seed of the split.
        folds: Number of folds that the training images are dealt into; None: none.
        fold: The one to validate on, from 0; the others are trained on.

    Raises:
        InputError: For no images, a single class, a class of one image, too many unreadable
            files, or images that cannot be dealt into folds.
    """
    if folds is not None and sets.validation is not None:
        raise InputError(
            f"the data has validation images of its own, which folds={folds} would not use: put "
            "them to the training images, or train without folds"
        )
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
    elif folds is not None or sets.train.groups is not None:
        count = max(2, round(1 / validation_ratio)) if folds is None else folds
        # Dealt with the unreadable files, so that these move no other sample.
        dealt = assign_folds(sets.train.targets, count, seed, sets.train.groups)[places]
        check_folds(dealt, train.targets, count, sets.class_names, train.groups)
        held_out = dealt == (fold or 0)
        train, validation = (
            train.take(np.flatnonzero(~held_out)),
            train.take(np.flatnonzero(held_out)),
        )
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
        opened[name] = (
            Split(part.ids, part.targets, images, rows, part.groups).take(places),
            places,
        )
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
