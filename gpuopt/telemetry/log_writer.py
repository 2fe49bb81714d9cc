"""Writes all samples of a subscription to a log, in a thread of its own."""

import threading
from pathlib import Path

from gpuopt.telemetry.jsonl import JsonlLog
from gpuopt.telemetry.subscription import Subscription

__all__ = ["LogWriter"]

_STOP_S = 10.0


class LogWriter:
    """Keeps a slow disk away from whoever takes the samples.

    Args:
        path: As `JsonlLog` has it, which also raises as there.
        subscription: The samples; the thread ends with it, once it has written all.

    Attributes:
        log: What was written and lost.
    """

    def __init__(self, path: Path, subscription: Subscription) -> None:
        self.log = JsonlLog(path)
        self._subscription = subscription
        self._late = 0
        self._thread = threading.Thread(target=self._run, name="gpuopt-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Samples that are not in the log."""
        return self.log.lost + self._subscription.lost + self._late

    def finish(self, timeout_s: float = _STOP_S) -> None:
        """Wait until all samples are written, after the subscription was ended.

        Args:
            timeout_s: Longest wait; what a disk that hangs has not taken by then counts as lost.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._late = len(self._subscription.take_all()) + 1  # and the one that is being written

    def _run(self) -> None:
        for sample in self._subscription:
            self.log.write(sample)
        self.log.close()
