"""Bootstrap confidence intervals of classification metrics, by resampling joint counts.

Drawing n samples with replacement and counting pairs of (true, predicted) class is one draw of a
multinomial distribution over the pairs that occur. Thousands of resamples thus cost a few array
operations and no loop over samples. Two models are compared on triples (true, first, second), so
that both see the same resampled images and their common luck cancels.

Bounds are bias-corrected percentiles (Efron, 1981). Resampling lowers macro-F1 when classes are
small, and with 100 classes of 31 samples plain percentiles cover 90 % instead of 95 %.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuopt.errors import InputError
from gpuopt.measure.classification import ClassCounts, Metric, checked_labels, macro_f1
from gpuopt.measure.interval import Interval

__all__ = [
    "bootstrap_interval",
    "grouped_bootstrap_interval",
    "interval_by_group",
    "paired_bootstrap_difference",
]

_LARGEST_BLOCK = 4_000_000


def bootstrap_interval(
    targets: ArrayLike,
    predictions: ArrayLike,
    metric: Metric = macro_f1,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Measure a metric with its bootstrap confidence interval.

    Args:
        targets: True classes, [n].
        predictions: Predicted classes, [n].
        metric: From counts to a figure.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling; the same seed gives the same interval.
        level: Confidence level.

    Raises:
        InputError: For labels that `confusion_matrix` refuses, fewer than 2 resamples, or a
            level outside 0 to 1.
    """
    true, (predicted,) = checked_labels(targets, predictions)
    cells, counts = np.unique(np.stack((true, predicted)), axis=1, return_counts=True)
    drawn = _Resampler(cells, counts, resamples, seed, level)
    values = drawn.evaluate(lambda weights: metric(drawn.class_counts(weights, 1)))
    return drawn.interval(values)


def grouped_bootstrap_interval(
    targets: ArrayLike,
    predictions: ArrayLike,
    groups: Sequence[str],
    metric: Metric = macro_f1,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Measure a metric with an interval from resampling whole groups of samples.

    Samples of one group, such as one patient, err together; an interval from single samples would
    be too narrow.

    Args:
        targets: True classes, [n].
        predictions: Predicted classes, [n].
        groups: Group of each sample, [n].
        metric: From counts to a figure.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling; the same seed gives the same interval.
        level: Confidence level.

    Raises:
        InputError: As for `bootstrap_interval`, and for another number of groups' names.
    """
    true, (predicted,) = checked_labels(targets, predictions)
    if len(groups) != len(true):
        raise InputError(f"{len(groups)} groups' names do not go with {len(true)} samples")
    cells, cell_of, counts = np.unique(
        np.stack((true, predicted)), axis=1, return_inverse=True, return_counts=True
    )
    group_of = np.unique(np.array(groups), return_inverse=True)[1]
    drawn = _Resampler(cells, counts, resamples, seed, level)
    values = drawn.evaluate_groups(
        lambda weights: metric(drawn.class_counts(weights, 1)), cell_of.reshape(-1), group_of
    )
    return drawn.interval(values)


def paired_bootstrap_difference(
    targets: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    metric: Metric = macro_f1,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Measure how much better the second predictions are than the first, on the same samples.

    Args:
        targets: True classes, [n].
        first: Predictions of the baseline, [n].
        second: Predictions of the candidate, [n].
        metric: From counts to a figure.
        groups: Group of each sample, [n], where whole groups are resampled.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
        level: Confidence level.

    Returns:
        The metric of `second` minus that of `first`.

    Raises:
        InputError: As for `bootstrap_interval`.
    """
    true, (one, two) = checked_labels(targets, first, second)
    if groups is not None and len(groups) != len(true):
        raise InputError(f"{len(groups)} groups' names do not go with {len(true)} samples")
    cells, cell_of, counts = np.unique(
        np.stack((true, one, two)), axis=1, return_inverse=True, return_counts=True
    )
    drawn = _Resampler(cells, counts, resamples, seed, level)

    def gain(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        second, first = (metric(drawn.class_counts(weights, row)) for row in (2, 1))
        return second - first

    if groups is None:
        return drawn.interval(drawn.evaluate(gain))
    group_of = np.unique(np.array(groups), return_inverse=True)[1]
    return drawn.interval(drawn.evaluate_groups(gain, cell_of.reshape(-1), group_of))


def interval_by_group(
    targets: ArrayLike,
    predictions: ArrayLike,
    groups: Mapping[str, ArrayLike],
    metric: Metric = macro_f1,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure a metric within groups of samples, such as one kind of disturbance.

    Args:
        targets: True classes, [n].
        predictions: Predicted classes, [n].
        groups: Boolean mask [n] of each group; groups may overlap.
        metric: From counts to a figure.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        One interval per group that holds samples.

    Raises:
        InputError: As for `bootstrap_interval`, and for a mask of another length or type.
    """
    true, (predicted,) = checked_labels(targets, predictions)
    intervals: dict[str, Interval] = {}
    for name, mask in groups.items():
        members = np.asarray(mask)
        if members.dtype != np.bool_ or members.shape != true.shape:
            raise InputError(f"group {name!r} must be a boolean mask of {len(true)} samples")
        if members.any():
            intervals[name] = bootstrap_interval(
                true[members], predicted[members], metric, resamples=resamples, seed=seed
            )
    return intervals


class _Resampler:
    """Draws counts of cells; the first row of `cells` is the true class, others predictions."""

    def __init__(
        self,
        cells: NDArray[np.int64],
        counts: NDArray[np.int64],
        resamples: int,
        seed: int,
        level: float,
    ) -> None:
        if resamples < 2:
            raise InputError(f"a bootstrap needs at least 2 resamples, not {resamples}")
        if not 0.0 < level < 1.0:
            raise InputError(f"the level of an interval lies between 0 and 1, not at {level}")
        # Only classes that occur take part: 1,000 classes with 100 samples cost like 100.
        labels, positions = np.unique(cells, return_inverse=True)
        self._cells = positions.reshape(cells.shape)
        self._membership = np.eye(len(labels))[self._cells]
        self._counts = counts
        self._resamples = resamples
        self._generator = np.random.default_rng(seed)
        self._level = level

    def class_counts(self, weights: NDArray[np.float64], row: int) -> ClassCounts:
        """Count per class from the weight of each cell, [resamples, cells]."""
        right = self._cells[0] == self._cells[row]
        return ClassCounts(
            hits=weights[:, right] @ self._membership[0][right],
            actual=weights @ self._membership[0],
            predicted=weights @ self._membership[row],
        )

    def evaluate(
        self, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Compute a statistic on the data itself (first value) and on every resample."""
        total = int(self._counts.sum())
        shares = self._counts / total
        block = max(1, _LARGEST_BLOCK // len(self._counts))
        values = [statistic(self._counts[None].astype(np.float64))]
        for start in range(0, self._resamples, block):
            size = min(block, self._resamples - start)
            drawn = self._generator.multinomial(total, shares, size=size)
            values.append(statistic(drawn.astype(np.float64)))
        return np.concatenate(values)

    def evaluate_groups(
        self,
        statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        cell_of: NDArray[np.int64],
        group_of: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """As `evaluate`, but draw groups; `cell_of` and `group_of` are of each sample, [n]."""
        values = [statistic(self._counts[None].astype(np.float64))]
        size = int(group_of.max()) + 1
        for _ in range(self._resamples):
            times = np.bincount(self._generator.integers(size, size=size), minlength=size)
            weights = np.bincount(cell_of, times[group_of], minlength=len(self._counts))
            values.append(statistic(weights[None].astype(np.float64)))
        return np.concatenate(values)

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """Take bias-corrected percentiles of what `evaluate` returned."""
        value, drawn = values[0], values[1:]
        below = float(np.mean(drawn < value) + np.mean(drawn == value) / 2.0)
        smallest = 0.5 / len(drawn)
        normal = NormalDist()
        bias = normal.inv_cdf(min(max(below, smallest), 1.0 - smallest))
        tail = (1.0 - self._level) / 2.0
        shares = [normal.cdf(2.0 * bias + normal.inv_cdf(edge)) for edge in (tail, 1.0 - tail)]
        low, high = np.quantile(drawn, shares)
        return Interval(float(value), float(low), float(high))
