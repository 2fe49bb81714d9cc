"""How far confidence is from accuracy: NLL, ECE, class-wise ECE and Brier score, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuopt.measure.calibration_sums import (
    Drawn,
    confidences_and_hits,
    equal_width,
    resampled_figures,
)
from gpuopt.measure.interval import Interval
from gpuopt.measure.temperature import checked_scores

__all__ = [
    "BINS",
    "CalibrationChange",
    "CalibrationScores",
    "ReliabilityBins",
    "calibration_change",
    "calibration_scores",
    "reliability_bins",
]

BINS = 15


@dataclass(frozen=True)
class CalibrationScores:
    """How well calibrated probabilities are; all are better when lower.

    Attributes:
        nll: Mean negative log-likelihood of the true class, in nats.
        ece: Expected calibration error of the most probable class: mean distance of confidence
            and accuracy over 15 bins of equal width.
        ece_equal_mass: The same over bins that hold equally many samples.
        classwise_ece: Mean over classes of the expected calibration error of that class's
            probability, over bins of equal width.
        brier: Mean squared distance to the true class, summed over classes: 0 to 2.
    """

    nll: Interval
    ece: Interval
    ece_equal_mass: Interval
    classwise_ece: Interval
    brier: Interval

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return plain values for `results.json`."""
        return {name: interval.as_dict() for name, interval in vars(self).items()}


@dataclass(frozen=True)
class CalibrationChange:
    """What a temperature does, measured on the same resamples.

    Attributes:
        before: At temperature 1.
        after: At the temperature.
        nll_difference: NLL after minus before; below 0 is better.
    """

    before: CalibrationScores
    after: CalibrationScores
    nll_difference: Interval

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `results.json`."""
        return {
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "nll_difference": self.nll_difference.as_dict(),
        }


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Samples by confidence, for a reliability diagram; bin i holds (i / bins, (i + 1) / bins].

    Attributes:
        counts: Samples of each bin, int64 [bins].
        confidence: Mean confidence, [bins]; NaN for an empty bin.
        accuracy: Share of samples predicted right, [bins]; NaN for an empty bin.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def calibration_scores(
    targets: ArrayLike,
    log_probabilities: ArrayLike,
    temperature: float = 1.0,
    *,
    groups: Sequence[str] | None = None,
    bins: int = BINS,
    resamples: int | None = None,
    seed: int = 0,
) -> CalibrationScores:
    """Measure the calibration of predictions, with 95 % bootstrap intervals.

    Args:
        targets: True classes, [n].
        log_probabilities: Of every class, [n, classes]; see `fit_temperature`.
        temperature: They are divided by it first.
        groups: Group of each sample, [n], where samples of a group are no independent evidence.
        bins: Number of bins.
        resamples: Bootstrap resamples; None takes 1,000, or fewer (at least 200) where there are
            very many probabilities.
        seed: Seed of the resampling.

    Raises:
        InputError: As for `fit_temperature`; also for other numbers of groups' names, and for
            fewer than 1 bin or 20 resamples.
    """
    (figures,) = resampled_figures(
        targets, log_probabilities, (temperature,), groups, bins, resamples, seed
    )
    return _scores(figures)


def calibration_change(
    targets: ArrayLike,
    log_probabilities: ArrayLike,
    temperature: float,
    *,
    groups: Sequence[str] | None = None,
    bins: int = BINS,
    resamples: int | None = None,
    seed: int = 0,
) -> CalibrationChange:
    """Measure the calibration before and after a temperature, on the same resamples.

    Args and errors are those of `calibration_scores`.
    """
    before, after = resampled_figures(
        targets, log_probabilities, (1.0, temperature), groups, bins, resamples, seed
    )
    difference = Drawn(after["nll"].values - before["nll"].values)
    return CalibrationChange(_scores(before), _scores(after), difference.interval())


def reliability_bins(
    targets: ArrayLike, log_probabilities: ArrayLike, temperature: float = 1.0, bins: int = BINS
) -> ReliabilityBins:
    """Sort samples into bins of equal width by the probability of their most probable class.

    Args and errors are those of `calibration_scores`.
    """
    true, scores = checked_scores(targets, log_probabilities)
    confidences, hits = confidences_and_hits(true, scores, temperature)
    places = equal_width(confidences, bins)
    counts = np.bincount(places, minlength=bins)
    undefined = np.full(bins, np.nan)
    means = [
        np.divide(
            np.bincount(places, weights=values, minlength=bins),
            counts,
            out=undefined.copy(),
            where=counts > 0,
        )
        for values in (confidences, hits.astype(np.float64))
    ]
    return ReliabilityBins(counts.astype(np.int64), means[0], means[1])


def _scores(figures: dict[str, Drawn]) -> CalibrationScores:
    return CalibrationScores(**{name: drawn.interval() for name, drawn in figures.items()})
