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
        self._thread = threading.Thread(target=self._run, name="gpuopt-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Samples that are not in the log."""
        return self.log.lost + self._subscription.lost

    def finish(self) -> None:
        """Wait until all samples are written, after the subscription was ended."""
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        for sample in self._subscription:
            self.log.write(sample)
        self.log.close()
