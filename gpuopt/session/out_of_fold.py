"""The predictions of a fold's model for the images it was not trained on."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuopt.data import ImageDataModule
from gpuopt.model import Classifier
from gpuopt.report import write_rows_csv
from gpuopt.session.evaluation import Evaluation, predict_all
from gpuopt.tta import Predictions, TestTimeAugmentation

__all__ = [
    "OUT_OF_FOLD",
    "OutOfFold",
    "pool",
    "read_out_of_fold",
    "read_rows",
    "write_out_of_fold",
    "write_pooled",
]

OUT_OF_FOLD = "out_of_fold.csv"
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


def write_out_of_fold(
    folder: Path,
    model: Classifier,
    data: ImageDataModule,
    evaluation: Evaluation,
    policy: TestTimeAugmentation,
    precision: str,
) -> None:
    """Predict the images of a fold and write `out_of_fold.csv` into its folder.

    Args:
        folder: The fold's own.
        model: Trained on the other folds, in evaluation mode on its device.
        data: Validates on this fold.
        evaluation: Is used when it scored the validation images already.
        policy: The views.
        precision: Arithmetic of the forward pass.
    """
    predictions = evaluation.predictions
    if evaluation.tested_on != "validation":
        predictions = predict_all(
            model,
            data.val_dataloader(),
            policy,
            precision=precision,
            total=data.validation_size,
            label="out of fold",
            with_single_view=False,
            show_progress=sys.stderr.isatty(),
        )
    names, groups = data.class_names, data.validation_groups
    header = ["id", *([] if groups is None else ["group"]), *_FIXED[1:]]
    write_rows_csv(
        folder / OUT_OF_FOLD,
        [*header, *(f"p_{name}" for name in names)],
        _rows(predictions, data.validation_ids, groups, data.fold or 0, names),
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
