"""Sums over resampled samples, from which calibration errors and their intervals are made.

Samples are resampled by Poisson weights of mean 1, which unlike a draw of all samples need no
memory for the whole: chunks of rows are weighted and summed up as they come. All figures are sums
over samples, or absolute values of such sums per bin.

Noise adds to an expected calibration error, which is a sum of absolute values, and adds once more
in each resample: percentiles would lie above the true value. Upper bounds are pivotal (the drawn
values mirrored at the measured one), and the lower bound of such an error takes off all that noise
can add: the sum of the bins' own deviations. A calibrated model's interval thus reaches to 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from gpuopt.errors import InputError
from gpuopt.measure.interval import Interval
from gpuopt.measure.temperature import checked_scores, row_chunks, scaled_log_probabilities

__all__ = ["Drawn", "confidences_and_hits", "equal_width", "resampled_figures"]

_MOST_RESAMPLES, _FEWEST_RESAMPLES = 1000, 200
_SMALLEST_RESAMPLES = 20
_AFFORDED_VALUES = 2_000_000_000
_LEVEL = 0.95
# First columns of the sums: weights, NLL, Brier score; then bins.
_PLAIN = 3


def resampled_figures(
    targets: ArrayLike,
    log_probabilities: ArrayLike,
    temperatures: Sequence[float],
    groups: Sequence[str] | None,
    bins: int,
    resamples: int | None,
    seed: int,
) -> list[dict[str, "Drawn"]]:
    """Measure all figures at several temperatures, on the same resamples.

    Args and errors are those of `calibration_scores`, but for several temperatures.

    Returns:
        Figures by name, for each temperature.
    """
    true, scores = checked_scores(targets, log_probabilities)
    if resamples is None:
        affordable = _AFFORDED_VALUES // scores.size
        resamples = min(_MOST_RESAMPLES, max(_FEWEST_RESAMPLES, affordable))
    if resamples < _SMALLEST_RESAMPLES or bins < 1:
        raise InputError(
            f"calibration needs at least {_SMALLEST_RESAMPLES} resamples and 1 bin, not "
            f"{resamples} and {bins}"
        )
    draw = _Weights(len(true), groups, resamples, seed)
    edges = [_equal_mass_edges(true, scores, t, bins) for t in temperatures]
    columns = _PLAIN + 2 * bins + bins * scores.shape[1]
    sums = [np.zeros((columns, resamples + 1)) for _ in temperatures]
    for rows in row_chunks(scores.shape):
        weights = draw.of(rows)
        for total, temperature, inner in zip(sums, temperatures, edges, strict=True):
            logs = scaled_log_probabilities(scores[rows], temperature)
            total += _columns(true[rows], logs, bins, inner).T @ weights
    return [_figures(total, bins, scores.shape[1]) for total in sums]


class _Weights:
    """How often each sample is drawn; samples of one group are drawn together."""

    def __init__(
        self, samples: int, groups: Sequence[str] | None, resamples: int, seed: int
    ) -> None:
        self._generator = np.random.default_rng(seed)
        self._resamples = resamples
        self._group_of: NDArray[np.intp] | None = None
        if groups is None:
            return
        if len(groups) != samples:
            raise InputError(f"{len(groups)} groups' names do not go with {samples} samples")
        names, self._group_of = np.unique(np.array(groups), return_inverse=True)
        self._of_groups = self._drawn(len(names))

    def of(self, rows: slice) -> NDArray[np.float64]:
        """Draw consecutive samples, [m, 1 + resamples]; the first column takes each once."""
        if self._group_of is not None:
            return self._of_groups[self._group_of[rows]]
        return self._drawn(rows.stop - rows.start)

    def _drawn(self, count: int) -> NDArray[np.float64]:
        weights = np.ones((count, 1 + self._resamples))
        weights[:, 1:] = self._generator.poisson(1.0, (count, self._resamples))
        return weights


def _columns(
    true: NDArray[np.int64],
    logs: NDArray[np.float64],
    bins: int,
    inner_edges: NDArray[np.float64],
) -> Any:
    """Lay out what is summed up: a row per sample, mostly zeros, with signed gaps in its bins."""
    count, classes = logs.shape
    row, probabilities = np.arange(count), np.exp(logs)
    best = logs.argmax(axis=1)
    confidence = probabilities[row, best]
    gap = confidence - (best == true)
    gaps = probabilities.copy()
    gaps[row, true] -= 1.0
    values = np.column_stack(
        (np.ones(count), -logs[row, true], (gaps**2).sum(axis=1), gap, gap, gaps)
    )
    places = np.column_stack(
        (
            np.tile(np.arange(_PLAIN), (count, 1)),
            _PLAIN + equal_width(confidence, bins),
            _PLAIN + bins + np.searchsorted(inner_edges, confidence),
            _PLAIN + 2 * bins + bins * np.arange(classes) + equal_width(probabilities, bins),
        )
    )
    starts = np.arange(count + 1) * values.shape[1]
    shape = (count, _PLAIN + 2 * bins + bins * classes)
    return csr_array((values.ravel(), places.ravel(), starts), shape=shape)


def _figures(sums: NDArray[np.float64], bins: int, classes: int) -> dict[str, "Drawn"]:
    drawn = sums[0] > 0  # of very few samples, a resample may hold none
    shares = sums[:, drawn] / sums[0, drawn]
    first, second = _PLAIN + bins, _PLAIN + 2 * bins
    return {
        "nll": Drawn(shares[1]),
        "brier": Drawn(shares[2]),
        "ece": Drawn.of_gaps(shares[_PLAIN:first]),
        "ece_equal_mass": Drawn.of_gaps(shares[first:second]),
        "classwise_ece": Drawn.of_gaps(shares[second:] / classes),
    }


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure on the data (first value) and on resamples, [1 + resamples].

    Attributes:
        values: The figure.
        noise: What noise adds to it at most, in each resample, where it adds at all.
    """

    values: NDArray[np.float64]
    noise: NDArray[np.float64] | None = None

    @classmethod
    def of_gaps(cls, gaps: NDArray[np.float64]) -> "Drawn":
        """Sum up signed gaps of bins, [gaps, 1 + resamples]."""
        return cls(np.abs(gaps).sum(axis=0), np.abs(gaps[:, 1:] - gaps[:, :1]).sum(axis=0))

    def interval(self) -> Interval:
        """Word how sure the figure is; see the top of this file."""
        value, tail = float(self.values[0]), (1.0 - _LEVEL) / 2.0
        low, high = (float(v) for v in np.quantile(self.values[1:], (tail, 1.0 - tail)))
        lower = 2.0 * value - high
        if self.noise is not None:
            lower = max(0.0, value - float(np.quantile(self.noise, 1.0 - tail)))
        return Interval(value, min(value, lower), max(value, 2.0 * value - low))


def confidences_and_hits(
    true: NDArray[np.int64], scores: NDArray[np.floating], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the probability of each sample's most probable class, and whether that is right."""
    confidences, hits = np.empty(len(true)), np.empty(len(true), np.bool_)
    for rows in row_chunks(scores.shape):
        logs = scaled_log_probabilities(scores[rows], temperature)
        confidences[rows] = np.exp(logs.max(axis=1))
        hits[rows] = logs.argmax(axis=1) == true[rows]
    return confidences, hits


def _equal_mass_edges(
    true: NDArray[np.int64], scores: NDArray[np.floating], temperature: float, bins: int
) -> NDArray[np.float64]:
    """Return the bounds between bins that hold equally many confidences, [bins - 1]."""
    confidences, _ = confidences_and_hits(true, scores, temperature)
    edges: NDArray[np.float64] = np.quantile(confidences, np.arange(1, bins) / bins)
    return edges


def equal_width(shares: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Return the bin of each share; an upper bound belongs to the bin that it closes."""
    places: NDArray[np.int64] = np.ceil(shares * bins).astype(np.int64) - 1
    return places.clip(0, bins - 1)
