"""When a stretch of batches has been timed well enough, and what came out. Imports no torch.

Loader processes start together, so their first batches come in bursts of one from each. Throughput
is therefore taken over whole rounds, and the first of them is not timed.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from gpuopt.tuning.goal import Figures

__all__ = ["RoundClock", "RoundLimits"]

_LEAST_ROUNDS = 4
_LEAST_BATCHES = 4  # of a round
_STEADY_RATIO = 0.01


@dataclass(frozen=True)
class RoundLimits:
    """How long batches are timed.

    Attributes:
        least_s: Seconds at least.
        most_s: Seconds at most; a round is finished, but for one that alone takes as long again.
        most_batches: Timed batches at most, also no less than one round.
        stops_when_steady: Whether fewer are enough once the mean of the rounds is known to 1 %.
    """

    least_s: float = 0.5
    most_s: float = 10.0
    most_batches: int = 100
    stops_when_steady: bool = True


class RoundClock:
    """Times batches in rounds.

    Args:
        num_workers: Loader processes; a round has as many batches, and some more if they are few.
        limits: How long.
        clock: Monotonic time in seconds.
        settled_clock: The same when all work that was queued is done; asked between rounds only,
            because waiting for a device after each batch would slow it down.
        untimed: Further batches that are not timed.
        batches_per_step: A round has whole optimizer steps.
    """

    def __init__(
        self,
        num_workers: int,
        limits: RoundLimits | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        settled_clock: Callable[[], float] | None = None,
        untimed: int = 0,
        batches_per_step: int = 1,
    ) -> None:
        size = math.ceil(_LEAST_BATCHES / max(1, num_workers)) * max(1, num_workers)
        self._size = math.ceil(size / batches_per_step) * batches_per_step
        self._limits = limits or RoundLimits()
        self._clock = clock
        self._settled_clock = settled_clock or clock
        untimed += max(1, num_workers)
        self._untimed = math.ceil(untimed / batches_per_step) * batches_per_step
        self._batches = 0
        self._samples = 0
        self._in_round = 0
        self._began_s = self._round_began_s = self._before_s = 0.0
        self._rates: list[float] = []
        self._round_s: list[float] = []
        self._gaps_s: list[float] = []

    def batch_done(self, samples: int) -> bool:
        """Count a batch that the loop is done with.

        Args:
            samples: Its size.

        Returns:
            Whether enough has been timed.
        """
        self._batches += 1
        if self._batches < self._untimed:
            return False
        if self._batches == self._untimed:
            self._round_began_s = self._before_s = self._settled_clock()
            return False
        now_s = self._clock()
        self._gaps_s.append(now_s - self._before_s)
        self._before_s = now_s
        self._samples += samples
        self._in_round += 1
        takes_long = now_s - self._round_began_s >= 2 * self._limits.most_s
        if self._in_round < self._size and not takes_long:
            return False
        self._end_round()
        return takes_long or self._is_finished()

    def figures(self, memory_bytes: int | None = None) -> Figures:
        """Return what was measured over whole rounds.

        Raises:
            ValueError: When no round has ended.
        """
        if not self._rates:
            raise ValueError("the loader ended before anything was timed")
        seconds = sum(self._round_s)
        samples = sum(rate * s for rate, s in zip(self._rates, self._round_s, strict=True))
        gaps = sorted(self._gaps_s)
        slow = gaps[min(len(gaps) - 1, math.ceil(0.95 * len(gaps)) - 1)]
        return Figures(samples / max(seconds, 1e-9), 1000 * slow, memory_bytes)

    def _end_round(self) -> None:
        now_s = self._settled_clock()
        duration_s = max(now_s - self._round_began_s, 1e-9)
        self._rates.append(self._samples / duration_s)
        self._round_s.append(duration_s)
        self._round_began_s = self._before_s = now_s
        self._samples = self._in_round = 0

    def _is_finished(self) -> bool:
        limits, taken_s = self._limits, sum(self._round_s)
        if taken_s >= limits.most_s or self._size * (len(self._rates) + 1) > limits.most_batches:
            return True
        return limits.stops_when_steady and taken_s >= limits.least_s and self._is_steady()

    def _is_steady(self) -> bool:
        if len(self._rates) < _LEAST_ROUNDS:
            return False
        mean = statistics.fmean(self._rates)
        error = statistics.stdev(self._rates) / math.sqrt(len(self._rates))
        return error <= _STEADY_RATIO * mean
