"""Where messages go: short lines on stderr, everything with its time in the run's log."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["logging_to"]


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the moment; progress bars replace it while they live."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


class _File(logging.FileHandler):
    """Writes to a file while it can; a full disk costs lines, not the run, and is said once."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.has_failed:
            self.has_failed = True
            name = Path(self.baseFilename).name
            sys.stderr.write(f"{name} cannot be written ({error.strerror}): lines are missing\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what was left in the buffer
            super().close()


@contextlib.contextmanager
def logging_to(path: Path | None, *, on_screen: bool = True) -> Iterator[None]:
    """Send gpuopt's messages to stderr and, with Lightning's, to a file that is appended to.

    Args:
        path: For example `<run>/train.log`; None: to no file.
        on_screen: Whether stderr gets anything; of several ranks only the first one speaks.
    """
    own = logging.getLogger("gpuopt")
    lightning = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    screen = _Stderr()
    screen.setFormatter(logging.Formatter("%(message)s"))
    file = _File(path, encoding="utf-8") if path else logging.NullHandler()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = own.level
    before = [(logger, list(logger.handlers), logger.propagate) for logger in lightning]
    own.setLevel(logging.INFO)
    if on_screen:
        own.addHandler(screen)
    own.addHandler(file)
    for logger in lightning:
        logger.handlers = [file]  # its hints are for programmers; warnings reach people otherwise
        logger.propagate = False
    try:
        yield
    finally:
        own.removeHandler(screen)
        own.removeHandler(file)
        own.setLevel(level)
        for logger, handlers, propagates in before:
            logger.handlers, logger.propagate = handlers, propagates
        file.close()
