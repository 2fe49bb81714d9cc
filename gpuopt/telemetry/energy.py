"""How much energy a device has used, and how much of it in a given stretch of time."""

from bisect import bisect_left

from gpuopt.hardware import DeviceReading

__all__ = ["EnergyMeter"]


class EnergyMeter:
    """Adds up joules from one reading of a device to the next.

    The driver's counter counts. Without one, power is integrated between neighbouring readings;
    sensors look at a part of the time only, so that this may be off by several per cent.

    Args:
        kept: Number of newest readings, at least, between which `between` can answer.
    """

    def __init__(self, kept: int) -> None:
        # Only added to and replaced, so that another thread may search it meanwhile.
        self._points: list[tuple[float, float]] = []
        self._kept = max(2, kept)
        self._used_j = 0.0
        self._counter_j: float | None = None
        self._power_w: float | None = None
        self._at_s = 0.0

    def add(self, reading: DeviceReading, at_s: float) -> float | None:
        """Take a reading in.

        Args:
            reading: The newest.
            at_s: Its moment in seconds, of a clock that never goes back.

        Returns:
            Joules since the first reading that told any, without what was used while nothing
            told; None before the second of them, and while neither energy nor power is told.
        """
        counter_j, power_w = reading.energy_j, reading.power_w
        grown_j = self._grown_j(counter_j, power_w, at_s)
        self._power_w, self._at_s = power_w, at_s
        if counter_j is not None:
            self._counter_j = counter_j  # kept over a gap, of which it knows afterwards
        if counter_j is None and power_w is None:
            return None
        if grown_j is None:
            self._points = []
        else:
            self._used_j += grown_j
        if len(self._points) >= 2 * self._kept:
            self._points = self._points[-self._kept :]
        self._points.append((at_s, self._used_j))
        return None if len(self._points) < 2 else self._used_j

    def between(self, began_s: float, ended_s: float) -> float | None:
        """Return the joules of a stretch; power is taken as steady from reading to reading.

        Args:
            began_s: Of the clock of the readings.
            ended_s: The same, not earlier.

        Returns:
            None unless there are readings before its beginning and after its end, without a gap.
        """
        began_j, ended_j = self._at(began_s), self._at(ended_s)
        return None if began_j is None or ended_j is None else max(0.0, ended_j - began_j)

    def _grown_j(self, counter_j: float | None, power_w: float | None, at_s: float) -> float | None:
        """Return what was used since the last reading; None where nothing tells."""
        if counter_j is not None and self._counter_j is not None and counter_j >= self._counter_j:
            return counter_j - self._counter_j
        if power_w is not None and self._power_w is not None:
            return (power_w + self._power_w) / 2 * (at_s - self._at_s)
        return None

    def _at(self, moment_s: float) -> float | None:
        points = self._points
        if not points or not points[0][0] <= moment_s <= points[-1][0]:
            return None
        after = bisect_left(points, (moment_s, float("-inf")))
        later_s, later_j = points[after]
        if after == 0 or later_s == moment_s:
            return later_j
        earlier_s, earlier_j = points[after - 1]
        share = (moment_s - earlier_s) / (later_s - earlier_s)
        return earlier_j + share * (later_j - earlier_j)
