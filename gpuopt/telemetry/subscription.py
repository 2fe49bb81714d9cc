"""A reader's own queue of samples, which never makes the sampler wait."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

from gpuopt.telemetry.sample import Sample

__all__ = ["Subscription"]


class Subscription:
    """What a reader has not taken yet, oldest first.

    A reader that stalls loses its own oldest samples and is told how many; the sampler and the
    other readers do not notice. Made by `Sampler.subscribe`; may be used from any thread.

    Args:
        capacity: Most samples that wait.
        notify: Called in the sampler's thread after each sample and at the end; must return at
            once, as `loop.call_soon_threadsafe` does.
    """

    def __init__(self, capacity: int, notify: Callable[[], object] | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: must be at least 1")
        self._waiting: deque[Sample] = deque(maxlen=capacity)
        self._changed = threading.Condition()
        self._notify = notify
        self._lost = 0
        self._is_ended = False

    @property
    def lost(self) -> int:
        """How many samples this reader has lost since it subscribed."""
        return self._lost

    @property
    def is_ended(self) -> bool:
        """Whether no sample will be added; some may still wait."""
        return self._is_ended

    def get(self, timeout_s: float | None = None) -> Sample | None:
        """Take the oldest sample, waiting for one.

        Args:
            timeout_s: Longest wait in seconds; None waits for ever, 0 not at all.

        Returns:
            None when there was none in time, or when the sampling has ended and all are taken.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._waiting and not self._is_ended:
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return None
                self._changed.wait(left_s)
            return self._waiting.popleft() if self._waiting else None

    def take_all(self) -> list[Sample]:
        """Take all that wait, oldest first, without waiting."""
        with self._changed:
            taken = list(self._waiting)
            self._waiting.clear()
        return taken

    def close(self) -> None:
        """Want no more samples; what waits is forgotten."""
        with self._changed:
            self._waiting.clear()
        self.end()

    def put(self, sample: Sample) -> None:
        """Add a sample; never waits. For the sampler."""
        with self._changed:
            if self._is_ended:
                return
            if len(self._waiting) == self._waiting.maxlen:
                self._lost += 1  # the deque forgets its oldest
            self._waiting.append(sample)
            self._changed.notify_all()
        self._tell()

    def end(self) -> None:
        """Add nothing more; who waits is woken. For the sampler."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._notify is None:
            return
        try:
            self._notify()
        except Exception:  # its loop is gone, and with it the reader
            self._notify = None
            self._is_ended = True

    def __iter__(self) -> Iterator[Sample]:
        while (sample := self.get()) is not None:
            yield sample

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
