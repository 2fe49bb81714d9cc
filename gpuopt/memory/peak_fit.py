"""Measured peaks by micro-batch, and what they say about sizes that were not tried."""

from collections.abc import Mapping
from typing import Any

__all__ = ["PeakFit"]

_REMEMBERED = 8


class PeakFit:
    """Peak memory as a function of the samples taken at a time.

    The peak is the highest of several lines (see `gpuopt.memory.MemoryEstimate`), so it is convex.
    Between two measured sizes a line is therefore never too low. Beyond the largest one the line
    through the two largest may be, so go there by small steps. With one measured size everything
    above what lay there beside the step is taken to grow with the samples: never too low upwards.
    """

    def __init__(self) -> None:
        self._seen: dict[int, list[int]] = {}
        self._base_bytes: int | None = None

    def note(self, size: int, peak_bytes: int, base_bytes: int) -> None:
        """Take in a measurement.

        The first step of a size only opens its entry: libraries try out kernels in it.

        Args:
            size: Samples of the largest part of a batch.
            peak_bytes: Peak of its step.
            base_bytes: What is allocated between steps.
        """
        if size not in self._seen:
            self._seen[size] = []
            return
        self._seen[size] = [*self._seen[size], peak_bytes][-_REMEMBERED:]
        self._base_bytes = min(base_bytes, self._base_bytes or base_bytes)

    @property
    def bytes_per_sample(self) -> float | None:
        """What a further sample adds, by the two largest measured sizes; None with fewer."""
        sizes = self._sizes()
        return None if len(sizes) < 2 else self._slope(sizes[-2], sizes[-1])

    def measured(self, size: int) -> int | None:
        """Return the highest of the last peaks at a size; None before there is one."""
        return max(self._seen.get(size, ()), default=None)

    def peak_of(self, size: int) -> float | None:
        """Return the peak at a size, measured or else by the fit; None when nothing is known."""
        sizes, known = self._sizes(), self.measured(size)
        if known is not None:
            return float(known)
        if not sizes:
            return None
        above = [other for other in sizes if other > size]
        below = [other for other in sizes if other < size]
        if not below or len(sizes) == 1:
            return self._in_proportion(size, sizes[0])
        low, high = (below[-1], above[0]) if above else (sizes[-2], sizes[-1])
        return self._peak(low) + self._slope(low, high) * (size - low)

    def state(self) -> dict[str, Any]:
        """Return what `load` takes, as plain values."""
        return {"seen": {k: list(v) for k, v in self._seen.items()}, "base": self._base_bytes}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where another has stopped."""
        self._seen = {int(size): list(peaks) for size, peaks in state["seen"].items()}
        self._base_bytes = state["base"]

    def _sizes(self) -> list[int]:
        return sorted(size for size, peaks in self._seen.items() if peaks)

    def _peak(self, size: int) -> int:
        return max(self._seen[size])

    def _slope(self, low: int, high: int) -> float:
        return max(0.0, (self._peak(high) - self._peak(low)) / (high - low))

    def _in_proportion(self, size: int, known: int) -> float:
        base = min(self._base_bytes or 0, self._peak(known))
        return base + (self._peak(known) - base) * size / known
