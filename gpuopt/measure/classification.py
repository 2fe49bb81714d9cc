"""Classification metrics from counts per class. NumPy only.

Counts, not labels, because then thousands of resamples of a test set are computed at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuopt.errors import InputError

__all__ = [
    "ClassCounts",
    "Metric",
    "accuracy",
    "checked_labels",
    "class_counts",
    "confusion_matrix",
    "f1_per_class",
    "macro_f1",
]


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Counts that F1 and accuracy are made of; leading axes are resamples.

    Attributes:
        hits: Samples of each class that were predicted right, [..., classes].
        actual: Samples of each class, [..., classes].
        predicted: Samples predicted as each class, [..., classes].
    """

    hits: NDArray[np.float64]
    actual: NDArray[np.float64]
    predicted: NDArray[np.float64]


Metric = Callable[[ClassCounts], NDArray[np.float64]]
"""From counts [..., classes] to one figure per resample, [...]."""


def accuracy(counts: ClassCounts) -> NDArray[np.float64]:
    """Share of samples predicted right, [...]."""
    return _ratio(counts.hits.sum(axis=-1), counts.actual.sum(axis=-1))


def f1_per_class(counts: ClassCounts) -> NDArray[np.float64]:
    """F1 of each class, [..., classes]; NaN for one that neither occurs nor is predicted."""
    return _ratio(2.0 * counts.hits, counts.actual + counts.predicted)


def macro_f1(counts: ClassCounts) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur or are predicted, [...].

    The same rule as scikit-learn's `f1_score(average="macro")` and torchmetrics' macro F1.
    """
    present = (counts.actual + counts.predicted) > 0
    total: NDArray[np.float64] = np.nan_to_num(f1_per_class(counts)).sum(axis=-1)
    return _ratio(total, present.sum(axis=-1).astype(np.float64))


def confusion_matrix(
    targets: ArrayLike, predictions: ArrayLike, classes: int | None = None
) -> NDArray[np.int64]:
    """Count every pair of true class (row) and predicted class (column), [classes, classes].

    Args:
        targets: True classes, [n].
        predictions: Predicted classes, [n].
        classes: Number of classes; by default as many as occur.

    Raises:
        InputError: For no samples, other lengths or shapes, or a class below 0 or too large.
    """
    true, (predicted,) = checked_labels(targets, predictions)
    largest = int(max(true.max(), predicted.max()))
    classes = largest + 1 if classes is None else classes
    if largest >= classes:
        raise InputError(f"class {largest} occurs, but there are only {classes} classes")
    pairs = np.bincount(true * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def class_counts(confusion: ArrayLike) -> ClassCounts:
    """Sum up confusion matrices [..., classes, classes] with true classes as rows."""
    matrix = np.asarray(confusion, dtype=np.float64)
    return ClassCounts(
        hits=np.diagonal(matrix, axis1=-2, axis2=-1),
        actual=matrix.sum(axis=-1),
        predicted=matrix.sum(axis=-2),
    )


def checked_labels(
    targets: ArrayLike, *predictions: ArrayLike
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...]]:
    """Return labels as int64 arrays of one length.

    Raises:
        InputError: For no samples, other lengths or shapes, or a class below 0.
    """
    arrays = [np.asarray(labels) for labels in (targets, *predictions)]
    shapes = [array.shape for array in arrays]
    if len(shapes[0]) != 1 or not shapes[0][0] or any(shape != shapes[0] for shape in shapes):
        raise InputError(f"labels must be equally long lists with samples, not of shapes {shapes}")
    if any(array.dtype.kind not in "iu" for array in arrays):
        raise InputError("labels must be whole numbers")
    if any(array.min() < 0 for array in arrays):
        raise InputError("a metric needs known classes, but some labels are below 0")
    true, *others = (array.astype(np.int64) for array in arrays)
    return true, tuple(others)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    undefined = np.full(np.shape(part), np.nan)
    result: NDArray[np.float64] = np.divide(part, whole, out=undefined, where=whole > 0)
    return result
