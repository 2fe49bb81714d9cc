"""The newest samples, encoded once, from which every browser reads at its own pace."""

import asyncio
import contextlib
import secrets
from collections import deque

__all__ = ["Hub"]

_BATCH = 32  # records that are sent in one piece


class Hub:
    """A ring of records and a place in it for each reader.

    There is no queue per reader: one that stalls keeps its place and makes nobody wait, and when
    it comes back it goes on from there, or from the oldest record that is still kept. Belongs to
    one event loop.

    Args:
        capacity: Number of newest records that are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._records: deque[bytes] = deque(maxlen=capacity)
        self._count = 0
        self._changed = asyncio.Event()
        # Places of an earlier monitor at the same address mean nothing here.
        self._name = secrets.token_hex(4)
        self.is_closed = False

    def publish(self, record: bytes) -> None:
        """Add a record and wake all readers."""
        self._records.append(record)
        self._count += 1
        self._wake()

    def close(self) -> None:
        """Let all readers end once they have read everything."""
        self.is_closed = True
        self._wake()

    def place(self, position: int) -> str:
        """Name a position, for a reader that comes back."""
        return f"{self._name}-{position}"

    def position(self, place: str | None) -> int:
        """Return the position that a reader who comes back has named; 0 for any other."""
        name, _, number = (place or "").rpartition("-")
        if name != self._name or not number.isdecimal() or len(number) > 18:
            return 0
        return min(int(number), self._count)

    async def after(self, position: int, timeout_s: float) -> tuple[int, list[bytes]]:
        """Return the next records after a position, waiting for one.

        Args:
            position: How many records there were before those that are wanted.
            timeout_s: Longest wait in seconds.

        Returns:
            The position of the first of them, which is later than the one that was asked for when
            some are no longer kept, and at most 32 records: none when none came in time, or when
            the hub is closed and everything was read.
        """
        if position >= self._count and not self.is_closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
        first = max(position, self._count - len(self._records))
        oldest = self._count - len(self._records)
        kept = range(first - oldest, min(first - oldest + _BATCH, len(self._records)))
        return first, [self._records[index] for index in kept]

    def _wake(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()
