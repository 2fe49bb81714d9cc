"""Measure durations without slowing the device down. Imports no torch.

Kernels run while Python goes on, so a clock says nothing before the device is synchronised; and
synchronising after every step would stop the overlap that is to be measured. Therefore steps are
counted in segments, and the device is synchronised at a segment's two edges only.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

__all__ = ["Segment", "StepTimer", "Stopwatch", "duration_text"]


def _nothing() -> None:
    """Stand in for synchronising where work is done when a call returns, as on a CPU."""


@dataclass(frozen=True)
class Segment:
    """A stretch of steps between two synchronisations.

    Attributes:
        duration_s: From edge to edge.
        data_wait_s: Part of it in which the loop waited for its next batch.
        steps: Number of steps.
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
        return self.data_wait_s / self.duration_s if self.duration_s > 0 else 0.0


class StepTimer:
    """Counts steps and samples in segments.

    Call `begin`, then for each batch `batch_ready` when the loop has it and `batch_done` after
    its step, and `end` for the figures. `end` followed by `begin` leaves out what happens in
    between, such as validation.

    Args:
        synchronize: Waits for the device, such as `torch.cuda.synchronize`.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        synchronize: Callable[[], object] = _nothing,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._synchronize = synchronize
        self._clock = clock
        self._began: float | None = None
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
        self._synchronize()
        self._began = self._idle_since = self._clock()
        self._data_wait_s = 0.0
        self._steps = self._samples = 0

    def batch_ready(self) -> None:
        """Note that the wait for a batch is over."""
        self._data_wait_s += self._clock() - self._idle_since

    def batch_done(self, samples: int) -> None:
        """Count a step; from now on the loop waits for the next batch."""
        self._steps += 1
        self._samples += samples
        self._idle_since = self._clock()

    def end(self) -> Segment:
        """Close the segment.

        Raises:
            RuntimeError: When none is open.
        """
        if self._began is None:
            raise RuntimeError("StepTimer.end() without begin()")
        self._synchronize()
        duration_s = self._clock() - self._began
        self._began = None
        return Segment(duration_s, self._data_wait_s, self._steps, self._samples)


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
