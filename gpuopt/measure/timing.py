"""Measure durations without slowing the device down. Imports no torch.

Kernels run while Python goes on, so the host's clock says nothing of the device, and waiting for
the device would stop the overlap that is to be measured. Therefore steps are timed in segments
between marks that the device passes in its own time, and figures are read afterwards.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Instant", "Mark", "Segment", "StepTimer", "Stopwatch", "TimedSteps", "duration_text"]


class Mark(Protocol):
    """A point of the work that was queued, which the device reaches sooner or later."""

    def is_reached(self) -> bool:
        """Whether the device has got there; never waits."""
        ...

    def seconds_since(self, earlier: Any) -> float:
        """Return the time between an earlier mark of the same kind and this; waits for both."""
        ...


class Instant:
    """A mark where work is done when a call returns, as on a CPU.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._at_s = clock()

    def is_reached(self) -> bool:
        """Return True: it is in the past."""
        return True

    def seconds_since(self, earlier: "Instant") -> float:
        """Return the time between an earlier instant and this."""
        return self._at_s - earlier._at_s


@dataclass(frozen=True)
class Segment:
    """A stretch of steps between two marks.

    Attributes:
        duration_s: From mark to mark.
        data_wait_s: How long the loop waited for its batches meanwhile.
        steps: Number of optimizer steps.
        samples: Number of samples in them.
    """

    duration_s: float
    data_wait_s: float
    steps: int
    samples: int

    @property
    def samples_per_second(self) -> float:
        """Throughput; 0 for a segment of no duration."""
        return self.samples / self.duration_s if self.duration_s > 0 else 0.0

    @property
    def step_ms(self) -> float:
        """Mean duration of a step; 0 without steps."""
        return 1000.0 * self.duration_s / self.steps if self.steps else 0.0

    @property
    def data_wait_ratio(self) -> float:
        """Share of the time in which the loop waited for data.

        With queued kernels the device may still be busy meanwhile: near 0 the loader is fast
        enough, and only a high value says that it limits training.
        """
        # The host runs ahead of the device, so the two clocks see slightly different stretches.
        return min(1.0, self.data_wait_s / self.duration_s) if self.duration_s > 0 else 0.0


@dataclass(frozen=True)
class TimedSteps:
    """A segment whose steps are queued, though the device may still be at work on them.

    Attributes:
        began: Where it begins.
        ended: Where it ends.
        data_wait_s: How long the loop waited for its batches.
        steps: Number of optimizer steps.
        samples: Number of samples in them.
    """

    began: Mark
    ended: Mark
    data_wait_s: float
    steps: int
    samples: int

    @property
    def is_finished(self) -> bool:
        """Whether the device has done the last step."""
        return self.ended.is_reached()

    def segment(self) -> Segment:
        """Return the figures; waits for the device when it is not finished."""
        duration_s = self.ended.seconds_since(self.began)
        return Segment(duration_s, self.data_wait_s, self.steps, self.samples)


class StepTimer:
    """Counts steps and samples in segments.

    Call `begin`, then for each micro-batch `batch_ready` when the loop has it and `batch_done`
    after it, and `end` for the figures. `end` followed by `begin` leaves out what happens in
    between, such as validation.

    Args:
        mark: Puts a mark behind the work that is queued by now.
        clock: Monotonic time of the host in seconds.
    """

    def __init__(
        self,
        mark: Callable[[], Mark] = Instant,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._mark = mark
        self._clock = clock
        self._began: Mark | None = None
        self._idle_since = 0.0
        self._data_wait_s = 0.0
        self._steps = 0
        self._samples = 0

    @property
    def is_running(self) -> bool:
        """Whether a segment is open."""
        return self._began is not None

    def begin(self) -> None:
        """Open a segment; an open one is dropped."""
        self._began = self._mark()
        self._idle_since = self._clock()
        self._data_wait_s = 0.0
        self._steps = self._samples = 0

    def batch_ready(self) -> None:
        """Note that the wait for a batch is over."""
        self._data_wait_s += self._clock() - self._idle_since

    def batch_done(self, samples: int, *, ends_step: bool = True) -> None:
        """Count a micro-batch; from now on the loop waits for the next one.

        Args:
            samples: Its size.
            ends_step: Whether the optimizer stepped after it.
        """
        self._steps += ends_step
        self._samples += samples
        self._idle_since = self._clock()

    def end(self) -> TimedSteps:
        """Close the segment, without waiting for the device.

        Raises:
            RuntimeError: When none is open.
        """
        if self._began is None:
            raise RuntimeError("StepTimer.end() without begin()")
        timed = TimedSteps(self._began, self._mark(), self._data_wait_s, self._steps, self._samples)
        self._began = None
        return timed


def _nothing() -> None:
    """Stand in for synchronising where work is done when a call returns, as on a CPU."""


class Stopwatch:
    """Times a `with` block, for the parts of a run.

    Args:
        synchronize: Waits for the device, at both edges.
        clock: Monotonic time in seconds.

    Attributes:
        duration_s: Length of the block, also when it raised; 0 before its end.
    """

    def __init__(
        self,
        synchronize: Callable[[], object] = _nothing,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._synchronize = synchronize
        self._clock = clock
        self._began = 0.0
        self.duration_s = 0.0

    def __enter__(self) -> "Stopwatch":
        self._synchronize()
        self._began = self._clock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:  # a failed device must not raise again here and hide the first error
            self._synchronize()
        self.duration_s = self._clock() - self._began


def duration_text(seconds: float) -> str:
    """Word a duration as people do: `4.2 s`, `45 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
