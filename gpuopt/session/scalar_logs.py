"""Lightning's loggers, which a full disk must not let end the training."""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

__all__ = ["EventLog", "ScalarCsv", "make_logger"]

_log = logging.getLogger(__name__)
_EVENTS = "tensorboard"


class _SurvivesFullDisk:
    """Stops logging when its file cannot be written, and says so once."""

    has_failed = False

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        """Run a block that writes; nothing of what it logs is worth a run."""
        try:
            yield
        except Exception as error:
            # Lightning takes every error of TensorBoard for a value that cannot be logged.
            cause = error.__cause__ if isinstance(error, ValueError) else error
            if not isinstance(cause, OSError):
                raise
            if not self.has_failed:
                _log.warning("no scalars are logged any more (%s); training goes on", cause)
            self.has_failed = True


def _surviving(method: Callable[..., Any]) -> Any:
    """Let a method of a logger do nothing once its file could not be written."""

    @functools.wraps(method)
    def survive(self: _SurvivesFullDisk, *arguments: Any, **options: Any) -> Any:
        if self.has_failed:
            return None
        with self.tolerated():
            return method(self, *arguments, **options)

    return survive


class ScalarCsv(_SurvivesFullDisk, CSVLogger):
    """Scalars in a CSV file."""

    log_metrics = _surviving(CSVLogger.log_metrics)
    log_hyperparams = _surviving(CSVLogger.log_hyperparams)
    save = _surviving(CSVLogger.save)
    finalize = _surviving(CSVLogger.finalize)


class EventLog(_SurvivesFullDisk, TensorBoardLogger):
    """TensorBoard's events."""

    log_metrics = _surviving(TensorBoardLogger.log_metrics)
    log_hyperparams = _surviving(TensorBoardLogger.log_hyperparams)
    save = _surviving(TensorBoardLogger.save)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hook = threading.excepthook
        threading.excepthook = self._hide_the_writers

    @property
    def log_dir(self) -> str:
        """Folder of the events; Lightning takes `$HOME` in a run's name for a variable."""
        return str(Path(self.root_dir) / _EVENTS)

    def finalize(self, status: str) -> None:
        """Write what is buffered, and close."""
        with self.tolerated():
            super().finalize(status)
        threading.excepthook = self._hook

    def _hide_the_writers(self, failed: threading.ExceptHookArgs) -> None:
        """Leave what fails in TensorBoard's thread to the next call, which raises it as well."""
        of_tensorboard = type(failed.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(failed.exc_value, OSError)):
            self._hook(failed)


def make_logger(name: str, folder: Path) -> Logger | None:
    """Make the logger of a run.

    Args:
        name: `tensorboard`, `csv` or `none`.
        folder: The run folder.
    """
    if name == "tensorboard":
        return EventLog(folder, name=None, version=_EVENTS, default_hp_metric=False)
    if name == "csv":
        return ScalarCsv(folder, name=None, version="csv")
    return None
