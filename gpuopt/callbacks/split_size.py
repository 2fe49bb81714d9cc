"""How many samples at a time: smaller after each failure, larger again when all goes well."""

from collections.abc import Mapping
from typing import Any

__all__ = ["SplitSize"]

_STATE = ("limit", "_wait", "_good_batches", "_is_trying", "_largest")


class SplitSize:
    """The largest part of a batch that is tried.

    Args:
        grow_after_batches: Batches without a failure after which twice the size is tried. Each
            failure of a larger size doubles that number, so that a device that stays full is
            not tried over and over.
    """

    def __init__(self, grow_after_batches: int) -> None:
        self.limit: int | None = None
        self._wait = grow_after_batches
        self._good_batches = 0
        self._is_trying = False
        self._largest = 0

    @property
    def current(self) -> int:
        """Samples at a time: the limit, or the largest batch seen."""
        return self._largest if self.limit is None else self.limit

    def state(self) -> dict[str, Any]:
        """Return what `load` takes, as plain values."""
        return {name: getattr(self, name) for name in _STATE}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where another has stopped."""
        for name in _STATE:
            setattr(self, name, state[name])

    def forget(self) -> None:
        """Try whole batches again."""
        self.limit, self._good_batches, self._is_trying = None, 0, False

    def start(self, count: int) -> int:
        """Return the size to try first with a batch of `count` samples."""
        self._largest = max(self._largest, count)
        return count if self.limit is None else min(self.limit, count)

    def failed(self, size: int) -> int:
        """Return the size to try after `size` has failed; it stays for later batches."""
        self.limit = (size + 1) // 2
        self._good_batches = 0
        if self._is_trying:
            self._wait, self._is_trying = 2 * self._wait, False
        return self.limit

    def succeeded(self) -> int | None:
        """Count a batch; returns the new size when it grows."""
        if self.limit is None:
            return None
        self._good_batches += 1
        if self._good_batches < self._wait:
            return None
        self._good_batches, self._is_trying = 0, True
        self.limit *= 2
        if self.limit >= self._largest:
            self.limit = None
        return self.current
