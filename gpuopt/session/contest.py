"""A contest's submission: the test images with the values that the contest's CSV uses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuopt.data import ImageCsv
from gpuopt.data.csv_table import read_csv
from gpuopt.errors import InputError
from gpuopt.report import write_contest_csv

__all__ = ["SUBMISSION", "contest_values", "is_contest", "values_of", "write_submission"]

SUBMISSION = "submission.csv"


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


def values_of(node: Mapping[str, Any], class_names: Sequence[str]) -> list[str] | None:
    """Find the contest's values from the settings of a data set.

    Args:
        node: The settings of `data=...`.
        class_names: In the order of the logits.

    Returns:
        One value per class; None for a data set that is no list of test images.

    Raises:
        InputError: As `contest_values`.
    """
    is_csv = str(node["_target_"]).rpartition(".")[2] == "ImageCsv"
    if not is_csv or not (node.get("test_csv") or node.get("test_dir")):
        return None
    if not node.get("classes_csv"):
        return contest_values(class_names, None)
    root = Path(node["root"]).expanduser() if node.get("root") else Path()
    return contest_values(class_names, root / node["classes_csv"])


def is_contest(data: Any) -> bool:
    """Tell whether a data set lists test images whose classes only the contest knows."""
    return isinstance(data, ImageCsv) and data.has_test_set and not data.has_test_targets


def write_submission(
    path: Path,
    ids: Sequence[str],
    classes: Sequence[int] | NDArray[np.int64],
    values: Sequence[str],
) -> None:
    """Write `id,target`, one line per image, in the order given.

    Args:
        path: The file.
        ids: Name of each image.
        classes: Predicted class of each image.
        values: The contest's value of each class.

    Raises:
        OSError: When the file cannot be written.
    """
    write_contest_csv(path, ids, [values[index] for index in classes])
