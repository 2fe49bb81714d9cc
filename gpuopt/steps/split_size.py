"""How many samples at a time: smaller after each failure, larger again when all goes well."""

from collections.abc import Mapping
from typing import Any

from gpuopt.steps.batch_parts import largest_part

__all__ = ["SplitSize"]

_STATE = ("limit", "_wait", "_good_batches", "_is_trying", "_reported", "_failed")


class SplitSize:
    """The largest part of a batch that is tried.

    Args:
        grow_after_batches: Batches without a failure after which twice the size is tried. Each
            failure of a larger size doubles that number, so that a device that stays full is
            not tried over and over.

    Attributes:
        limit: Samples at a time; None for whole batches.
        first: What `forget` goes back to; None for whole batches.
        ceiling: Never more than these; None: no such bound.
        is_measured: Whether somebody who measures the memory decides when to grow, by `change`.
    """

    def __init__(self, grow_after_batches: int) -> None:
        self.limit: int | None = None
        self.first: int | None = None
        self.ceiling: int | None = None
        self.is_measured = False
        self._wait = grow_after_batches
        self._good_batches = 0
        self._is_trying = False
        self._largest = 0  # of this epoch: a resume, or its schedule, may have smaller batches
        self._reported = 0  # the same, of the last epoch that had a batch
        self._failed: int | None = None

    @property
    def current(self) -> int:
        """Samples at a time: the limit, or the largest batch of the epoch."""
        return self._bounded(self._largest or self._reported)

    @property
    def largest(self) -> int:
        """Samples of the largest batch of the epoch."""
        return self._largest

    @property
    def part(self) -> int:
        """Samples of the largest part that the largest batch is cut into; 0 before the first."""
        return self.part_of(self._largest) if self._largest else 0

    def part_of(self, count: int) -> int:
        """Return how many samples the largest part of a batch has."""
        return largest_part(count, self._bounded(count))

    def state(self) -> dict[str, Any]:
        """Return what `load` takes, as plain values."""
        return {name: getattr(self, name) for name in _STATE}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where another has stopped."""
        for name in _STATE:
            setattr(self, name, state.get(name, getattr(self, name)))

    def forget(self) -> None:
        """Begin again, as if nothing had failed."""
        self.limit, self._failed = self.first, None
        self._good_batches, self._is_trying = 0, False

    def begin_epoch(self) -> None:
        """Forget how large the batches were; those to come may be smaller."""
        self._largest = 0

    def start(self, count: int) -> int:
        """Return the size to try first with a batch of `count` samples."""
        self._largest = self._reported = max(self._largest, count)
        return self._bounded(count)

    def failed(self, size: int) -> int:
        """Return the size to try after parts of `size` have failed; it stays for later batches."""
        self.limit = (size + 1) // 2
        self._failed = size
        self._good_batches = 0
        if self._is_trying:
            self._wait, self._is_trying = 2 * self._wait, False
        return self.limit

    def succeeded(self) -> int | None:
        """Count a batch; returns the new size when it grows."""
        self._good_batches += 1
        if self._good_batches < self._wait:
            return None
        self._is_trying = False  # what was tried has held
        if self.limit is None or self.is_measured:
            return None
        if self.ceiling is not None and self.limit >= self.ceiling:
            return None
        self._good_batches, self._is_trying = 0, True
        self._set(2 * self.limit)
        return self.current

    def is_barred(self, size: int) -> bool:
        """Tell whether parts of that size have failed not long ago."""
        return self._failed is not None and size >= self._failed and self._good_batches < self._wait

    def change(self, size: int) -> None:
        """Take another size from now on, because of what was measured."""
        if self._failed is not None and size >= self._failed:
            self._good_batches, self._is_trying, self._failed = 0, True, None
        self._set(size)

    def _set(self, size: int) -> None:
        self.limit = size if size < self._largest else None

    def _bounded(self, count: int) -> int:
        bounds = [bound for bound in (self.limit, self.ceiling) if bound is not None]
        return min([count, *bounds])
