"""For how long each reason has held a device's clock down."""

from collections.abc import Mapping

from gpuopt.hardware import DeviceReading

__all__ = ["ThrottleClock"]


class ThrottleClock:
    """Adds up seconds per reason from one reading of a device to the next.

    A reason that the driver counts is taken from its counter, up to the time that has passed. Of
    the others only the moments of the readings are known: each gets half of the time between two
    readings for every one of the two that shows it.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._began_s: float | None = None
        self._at_s = 0.0
        self._reasons: frozenset[str] | None = None
        self._counters: Mapping[str, float] = {}

    def add(self, reading: DeviceReading, at_s: float) -> dict[str, float]:
        """Take a reading in.

        Args:
            reading: The newest; where it tells no reasons, its time counts for none.
            at_s: Its moment in seconds, of a clock that never goes back.

        Returns:
            Seconds since the first reading, by reason; a reason that never held is not in it.
        """
        counters = reading.violation_s or {}
        words = reading.throttle_reasons
        reasons = None if words is None else frozenset(words)
        if self._began_s is None:
            self._began_s = at_s
        else:
            self._add_counted(counters, at_s - self._began_s)
            if reasons is not None and self._reasons is not None:
                half_s = (at_s - self._at_s) / 2
                for word in [*self._reasons, *reasons]:
                    if word not in counters or word not in self._counters:
                        self._add(word, half_s)
        self._at_s, self._reasons, self._counters = at_s, reasons, counters
        return dict(self._seconds)

    def _add_counted(self, counters: Mapping[str, float], passed_s: float) -> None:
        for word, value in counters.items():
            # A counter that went back was reset, with the driver or with the card.
            self._add(word, value - self._counters.get(word, value))
            if word in self._seconds:
                self._seconds[word] = min(self._seconds[word], passed_s)

    def _add(self, word: str, seconds: float) -> None:
        if seconds > 0:
            self._seconds[word] = self._seconds.get(word, 0.0) + seconds
