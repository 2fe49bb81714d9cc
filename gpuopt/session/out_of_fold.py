"""The predictions of a fold's model for the images it was not trained on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuopt.report import write_rows_csv
from gpuopt.tta import Predictions

if TYPE_CHECKING:
    from gpuopt.data import ImageDataModule

__all__ = [
    "OUT_OF_FOLD",
    "OUT_OF_FOLD_NO_TTA",
    "OutOfFold",
    "pool",
    "read_out_of_fold",
    "read_rows",
    "write_out_of_fold",
    "write_pooled",
]

OUT_OF_FOLD = "out_of_fold.csv"
OUT_OF_FOLD_NO_TTA = "out_of_fold_no_tta.csv"
_FIXED = ("id", "fold", "target", "prediction")


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of training images by models that have not seen them.

    Attributes:
        header: Columns of the file.
        rows: Its lines.
        class_names: In the order of the probabilities.
        ids: Name of each sample.
        folds: Fold of each sample, int64 [n].
        targets: True classes, int64 [n].
        classes: Predicted classes, int64 [n].
        groups: Group of each sample, where the data has groups.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    class_names: Sequence[str]
    ids: Sequence[str]
    folds: NDArray[np.int64]
    targets: NDArray[np.int64]
    classes: NDArray[np.int64]
    groups: Sequence[str] | None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Probability of each class, float32 [n, classes].

        Raises:
            ValueError: When the file holds something else.
        """
        return np.array([row[-len(self.class_names) :] for row in self.rows], np.float32)


def write_out_of_fold(
    folder: Path, data: "ImageDataModule", predictions: Predictions, *, with_single_view: bool
) -> None:
    """Write the predictions of a fold's images into its folder.

    Args:
        folder: The fold's own.
        data: Validates on this fold.
        predictions: Of its validation images.
        with_single_view: Also write what the unchanged images alone give, to
            `out_of_fold_no_tta.csv`.
    """
    names, groups = data.class_names, data.validation_groups
    header = ["id", *([] if groups is None else ["group"]), *_FIXED[1:]]
    written = {OUT_OF_FOLD: predictions.probabilities}
    if with_single_view and predictions.single_view is not None:
        written[OUT_OF_FOLD_NO_TTA] = predictions.single_view
    for name, probabilities in written.items():
        write_rows_csv(
            folder / name,
            [*header, *(f"p_{name}" for name in names)],
            _rows(
                replace(predictions, probabilities=probabilities),
                data.validation_ids,
                groups,
                data.fold or 0,
                names,
            ),
        )


def read_out_of_fold(path: Path) -> OutOfFold:
    """Read such a file.

    Raises:
        OSError: When it is missing.
        ValueError: When it is damaged.
    """
    header, rows = read_rows(path)
    place = {name: header.index(name) for name in _FIXED}
    names = [name.removeprefix("p_") for name in header[place["prediction"] + 1 :]]
    index = {name: number for number, name in enumerate(names)}
    try:
        targets, classes = (
            np.array([index[row[place[column]]] for row in rows], np.int64)
            for column in ("target", "prediction")
        )
    except KeyError as error:
        raise ValueError(f"{path} has no class {error}") from error
    group = header.index("group") if header[1] == "group" else None
    return OutOfFold(
        header,
        rows,
        names,
        [row[place["id"]] for row in rows],
        np.array([int(row[place["fold"]]) for row in rows], np.int64),
        targets,
        classes,
        None if group is None else [row[group] for row in rows],
    )


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV file that a run wrote, as its header and its rows.

    Raises:
        OSError: When it is missing.
        ValueError: When it is damaged or has no rows.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            header, *rows = csv.reader(stream, strict=True)
    except csv.Error as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} is cut short")
    return header, rows


def pool(parts: Sequence[OutOfFold]) -> OutOfFold:
    """Put the predictions of several folds together, one after another.

    Raises:
        ValueError: When a sample comes twice, or the columns differ.
    """
    first = parts[0]
    if any(part.header != first.header for part in parts):
        raise ValueError("the folds have different classes")
    ids = [name for part in parts for name in part.ids]
    if len(set(ids)) != len(ids):
        raise ValueError("an image was validated on in two folds")
    has_groups = first.groups is not None
    return OutOfFold(
        first.header,
        [row for part in parts for row in part.rows],
        first.class_names,
        ids,
        np.concatenate([part.folds for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.classes for part in parts]),
        [name for part in parts for name in part.groups or ()] if has_groups else None,
    )


def write_pooled(folder: Path, pooled: OutOfFold) -> None:
    """Write the predictions of all folds into the folder of their run."""
    write_rows_csv(folder / OUT_OF_FOLD, pooled.header, pooled.rows)


def _rows(
    predictions: Predictions,
    ids: Sequence[str],
    groups: Sequence[str] | None,
    fold: int,
    class_names: Sequence[str],
) -> list[list[str | int]]:
    rows: list[list[str | int]] = []
    for place, target, shares in zip(
        predictions.ids, predictions.targets, predictions.probabilities, strict=True
    ):
        group = [] if groups is None else [groups[place]]
        words = (class_names[target], class_names[shares.argmax()])
        rows.append([ids[place], *group, fold, *words, *(f"{share:.9g}" for share in shares)])
    return rows
