"""The time of a step as a function of its samples, fitted to a few measured steps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["StepTime", "fit_step_time"]

_KNEE_MULTIPLE = 8


@dataclass(frozen=True)
class StepTime:
    """A step takes `base_seconds + samples * seconds_per_sample`.

    Attributes:
        base_seconds: What every step costs, such as launching kernels and reading the weights.
        seconds_per_sample: What each sample adds.
    """

    base_seconds: float
    seconds_per_sample: float

    def at(self, samples: int) -> float:
        """Return the seconds of a step of that many samples."""
        return self.base_seconds + samples * self.seconds_per_sample

    def knee(self, efficiency: float, largest: int) -> int:
        """Return the least batch that spends that share of its time on samples.

        Args:
            efficiency: Between 0 and 1.
            largest: What is returned when no smaller batch does.

        Returns:
            A multiple of 8, or `largest`.
        """
        if self.seconds_per_sample <= 0:
            return largest
        ratio = efficiency / (1 - efficiency)
        samples = ratio * self.base_seconds / self.seconds_per_sample
        rounded = _KNEE_MULTIPLE * max(1, math.ceil(samples / _KNEE_MULTIPLE))
        return min(largest, rounded)


def fit_step_time(points: Iterable[tuple[int, float]]) -> StepTime | None:
    """Fit by least squares of the relative errors; neither part is below 0.

    Args:
        points: Samples and seconds of measured steps.

    Returns:
        None when there are none.
    """
    known = [(float(samples), seconds) for samples, seconds in points if seconds > 0]
    if not known:
        return None
    weights = [1 / seconds**2 for _, seconds in known]
    total = sum(weights)
    mean_n = sum(w * n for w, (n, _) in zip(weights, known, strict=True)) / total
    mean_t = sum(w * t for w, (_, t) in zip(weights, known, strict=True)) / total
    spread = sum(w * (n - mean_n) ** 2 for w, (n, _) in zip(weights, known, strict=True))
    if spread == 0:  # one size alone says nothing of the base
        return StepTime(0.0, mean_t / mean_n)
    joint = sum(w * (n - mean_n) * (t - mean_t) for w, (n, t) in zip(weights, known, strict=True))
    slope = max(0.0, joint / spread)
    base = mean_t - slope * mean_n
    if base < 0:
        squares = sum(w * n * n for w, (n, _) in zip(weights, known, strict=True))
        products = sum(w * n * t for w, (n, t) in zip(weights, known, strict=True))
        return StepTime(0.0, products / squares)
    return StepTime(base, slope)
