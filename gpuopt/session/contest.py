"""A contest's submission: the test images with the values that the contest's CSV uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuopt.data.csv_table import read_csv
from gpuopt.errors import InputError
from gpuopt.report import write_contest_csv
from gpuopt.storage import place_below

__all__ = [
    "SUBMISSION",
    "Contest",
    "contest_of_data",
    "contest_of_settings",
    "contest_values",
    "write_submission",
]

SUBMISSION = "submission.csv"


@dataclass(frozen=True)
class Contest:
    """How a contest writes its lists.

    Attributes:
        values: The target column's value of each class.
        columns: Names of the columns of ids and targets.
    """

    values: list[str]
    columns: tuple[str, str]


def contest_values(class_names: Sequence[str], classes_csv: Path | None) -> list[str]:
    """Find the value of the target column for each class.

    Args:
        class_names: In the order of the logits.
        classes_csv: CSV with the value and the name of each class in its first two columns;
            None when the names are the values.

    Raises:
        InputError: When the CSV cannot be used, or does not name a class.
    """
    if classes_csv is None:
        return list(class_names)
    table = read_csv(classes_csv, "data.classes_csv")
    if len(table.names) < 2:
        raise InputError(f"{classes_csv} has one column: it needs the target and the class name")
    names, values = table.unique(table.names[1]), table.unique(table.names[0])
    value_of = dict(zip(names, values, strict=True))
    missing = [name for name in class_names if name not in value_of]
    if missing:
        raise InputError(
            f"{classes_csv} does not name the model's class {missing[0]!r}: give the file that "
            "the model was trained with as data.classes_csv"
        )
    return [value_of[name] for name in class_names]


def contest_of_settings(node: Mapping[str, Any], class_names: Sequence[str]) -> Contest | None:
    """Find how a contest writes its lists from the settings of a data set.

    Args:
        node: The settings of `data=...`.
        class_names: In the order of the logits.

    Returns:
        None for a data set that is no list of test images.

    Raises:
        InputError: As `contest_values`.
    """
    is_csv = str(node["_target_"]).rpartition(".")[2] == "ImageCsv"
    if not is_csv or not (node.get("test_csv") or node.get("test_dir")):
        return None
    classes, test, train = (
        place_below(node.get("root"), node[key]) if node.get(key) else None
        for key in ("classes_csv", "test_csv", "train_csv")
    )
    lists = [file for file in (test, train) if file is not None]
    columns = _columns(node.get("id_column"), node.get("target_column"), lists)
    return Contest(contest_values(class_names, classes), columns)


def contest_of_data(data: Any) -> Contest | None:
    """Find how a contest writes its lists.

    Args:
        data: A data set that has been set up.

    Returns:
        None unless it lists test images whose classes only the contest knows.

    Raises:
        InputError: As `contest_values`.
    """
    from gpuopt.data import ImageCsv  # only now: it needs Lightning, and predicting does not

    if not isinstance(data, ImageCsv) or not data.has_test_set or data.has_test_targets:
        return None
    lists = [file for file in (data.test_csv, data.train_csv) if file is not None]
    columns = _columns(data.id_column, data.target_column, lists)
    return Contest(contest_values(data.class_names, data.classes_csv), columns)


def write_submission(
    path: Path,
    ids: Sequence[str],
    classes: Sequence[int] | NDArray[np.int64],
    contest: Contest,
) -> None:
    """Write one line per image, in the order given, as the contest writes its lists.

    Args:
        path: The file.
        ids: Name of each image.
        classes: Predicted class of each image.
        contest: Its columns and values.

    Raises:
        OSError: When the file cannot be written.
    """
    values = [contest.values[index] for index in classes]
    write_contest_csv(path, ids, values, columns=contest.columns)


def _columns(
    id_column: str | None, target_column: str | None, lists: Sequence[Path]
) -> tuple[str, str]:
    """Name the columns as the first list that is there does, the contest's own before training's.

    A sample submission of two columns may call the classes otherwise than the training list.
    """
    found = next((file for file in lists if file.is_file()), None)
    names = ["id"] if found is None else read_csv(found, "data").names
    target = target_column or "target"
    if len(names) == 2 and target not in names:
        target = names[1]
    return id_column or names[0], target
