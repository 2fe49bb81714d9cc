"""Notice an allocator that finds memory only by giving back its cache, step after step."""

from gpuopt.memory.meter import MemoryMeter

__all__ = ["ThrashWatch"]

_STEPS_IN_A_ROW = 2


class ThrashWatch:
    """Counts the steps in a row in which the allocator had to give back its cache.

    Each time it waits for the device, frees what it had kept and asks the driver again: training
    becomes many times slower, and the next step may fail altogether.

    Args:
        meter: Counts the retries.
    """

    def __init__(self, meter: MemoryMeter) -> None:
        self._meter = meter
        self._retries = meter.retries()
        self._steps = 0

    def is_thrashing(self) -> bool:
        """Look at the end of a step; true once in two steps in a row with retries."""
        retries = self._meter.retries()
        has_risen, self._retries = retries > self._retries, retries
        self._steps = self._steps + 1 if has_risen else 0
        if self._steps < _STEPS_IN_A_ROW:
            return False
        self._steps = 0
        return True

    def start_anew(self) -> None:
        """Forget the steps so far: what happened in them had a reason of its own."""
        self._retries, self._steps = self._meter.retries(), 0
