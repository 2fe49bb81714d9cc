"""Which micro-batch fits a share of the memory that is available, by measured peaks."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from gpuopt.memory.peak_fit import PeakFit

__all__ = ["SizeRule"]

# Of the available memory. Peaks of equal steps differ by less, and no size is left for it.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class SizeRule:
    """Chooses among the sizes of parts that a batch can be cut into.

    Attributes:
        target_ratio: Share of the available memory that the peak may take.
        growth_ratio: How much larger the next size is at most, except that it has one part less.
        maximum: Largest size; None: the loader's batch.
    """

    target_ratio: float
    growth_ratio: float
    maximum: int | None = None

    def next_size(
        self,
        count: int,
        part: int,
        fit: PeakFit,
        available_bytes: int,
        is_barred: Callable[[int], bool] = lambda size: False,
    ) -> int:
        """Return the size to take next; the present one when there is no reason to change it.

        Args:
            count: Samples of a whole batch.
            part: Samples taken at a time now.
            fit: Measured peaks; without one of `part` nothing changes.
            available_bytes: What this process can fill.
            is_barred: Tells sizes that are not to be tried now.
        """
        peak = fit.measured(part)
        if peak is None:
            return part
        budget = self.target_ratio * available_bytes
        if peak > budget + _TOLERANCE * available_bytes:
            smaller = [size for size in _parts(count) if size < part]
            fitting = [size for size in smaller if _fits(fit, size, budget)]
            return max(fitting, default=min(smaller, default=part))
        larger = [size for size in _parts(count) if size > part and not is_barred(size)]
        if self.maximum is not None:
            larger = [size for size in larger if size <= self.maximum]
        if not larger:
            return part
        most = max(self.growth_ratio * part, min(larger))
        fitting = [size for size in larger if size <= most and _fits(fit, size, budget)]
        return max(fitting, default=part)


@functools.lru_cache(maxsize=16)
def _parts(count: int) -> list[int]:
    """List the sizes of the largest part when `count` samples are cut into 1, 2, ... parts."""
    return sorted({-(-count // parts) for parts in range(1, count + 1)})


def _fits(fit: PeakFit, size: int, budget_bytes: float) -> bool:
    peak = fit.peak_of(size)
    return peak is not None and peak <= budget_bytes
