"""Whether a series grows, told apart from noise, steps and spikes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, theilslopes

__all__ = ["LEAST_READINGS", "Trend", "trend_of"]

LEAST_READINGS = 16
"""With fewer no trend is told."""

_LEAST_STRETCHES, _MOST_STRETCHES = 8, 40
_LEVEL = 0.99
# Of the slope: what grows less than this in the second half comes to an end.
_LATE_RATIO = 0.3


@dataclass(frozen=True)
class Trend:
    """The growth of a series.

    Attributes:
        slope: Theil-Sen's, per unit of the positions.
        low: Lower bound of its 99 % interval.
        high: Upper bound.
        p: Mann-Kendall's: chance of such an order when the series does not grow.
        late_slope: Theil-Sen's, of the second half.
    """

    slope: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p: float = 1.0
    late_slope: float = 0.0

    @property
    def grows(self) -> bool:
        """Whether the growth is no chance, and goes on."""
        goes_on = self.late_slope >= _LATE_RATIO * self.slope
        return self.p < 0.001 and self.low > 0 and goes_on


def trend_of(positions: Sequence[float], values: Sequence[float]) -> Trend:
    """Find the trend of the floors of a series.

    Only the least value of each of up to 40 stretches counts: what comes and goes, such as a
    validation or garbage that waits to be collected, does not.

    Args:
        positions: In rising order, such as seconds.
        values: At these positions.

    Returns:
        No trend for fewer than `LEAST_READINGS` values.
    """
    if len(values) < LEAST_READINGS:
        return Trend()
    at, floors = _floors(np.asarray(positions, float), np.asarray(values, float))
    if floors.min() == floors.max():
        return Trend()
    slope, _, low, high = theilslopes(floors, at, alpha=_LEVEL)
    p = kendalltau(at, floors, alternative="greater").pvalue
    half = len(floors) // 2
    late_slope = theilslopes(floors[half:], at[half:])[0]
    return Trend(float(slope), float(low), float(high), float(p), float(late_slope))


def _floors(
    positions: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count = min(_MOST_STRETCHES, max(_LEAST_STRETCHES, len(values) // 4))
    stretches = np.array_split(np.arange(len(values)), count)
    least = [int(stretch[values[stretch].argmin()]) for stretch in stretches]
    return positions[least], values[least]
