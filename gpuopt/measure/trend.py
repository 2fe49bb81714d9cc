"""Whether a series grows, told apart from noise, steps and spikes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, theilslopes

__all__ = ["LEAST_READINGS", "Trend", "trend_of"]

LEAST_READINGS = 8
"""With fewer no trend is told."""

_MOST_BINS = 40
_LEVEL = 0.99


@dataclass(frozen=True)
class Trend:
    """The growth of a series.

    Attributes:
        slope: Theil-Sen's, per unit of the positions.
        low: Lower bound of its 99 % interval.
        high: Upper bound.
        p: Mann-Kendall's: chance of such an order when the series does not grow.
    """

    slope: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p: float = 1.0

    @property
    def grows(self) -> bool:
        """Whether the growth is no chance."""
        return self.p < 0.001 and self.low > 0


def trend_of(positions: Sequence[float], values: Sequence[float]) -> Trend:
    """Find the trend of the floors of a series.

    Only the least value of each of up to 40 stretches counts: what comes and goes, such as a
    validation or garbage that waits to be collected, does not.

    Args:
        positions: In rising order, such as seconds.
        values: At these positions.

    Returns:
        No trend for fewer than 8 values.
    """
    at, floors = _floors(np.asarray(positions, float), np.asarray(values, float))
    if len(floors) < LEAST_READINGS or floors.min() == floors.max():
        return Trend()
    slope, _, low, high = theilslopes(floors, at, alpha=_LEVEL)
    p = kendalltau(at, floors, alternative="greater").pvalue
    return Trend(float(slope), float(low), float(high), float(p))


def _floors(
    positions: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(values) < LEAST_READINGS:
        return positions, values
    bins = min(_MOST_BINS, max(LEAST_READINGS, len(values) // 4))
    stretches = np.array_split(np.arange(len(values)), bins)
    least = [int(stretch[values[stretch].argmin()]) for stretch in stretches]
    return positions[least], values[least]
