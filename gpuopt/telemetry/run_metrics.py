"""The newest training metrics of a run, read from its folder while it is written."""

import csv
import io
import logging
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["RunMetrics"]

_log = logging.getLogger(__name__)

_FOLDERS = (".", "fold_*")
_EVENTS, _TABLE = "tensorboard/events.out.tfevents.*", "csv/metrics.csv"
# The devices and the machine are read anyway, and the other says nothing.
_LEFT_OUT = re.compile(r"gpu\d+/|host/|hp_metric$")
_MOST_NAMES = 64
_STOP_S = 5.0


class _File(Protocol):
    """A file of metrics that grows."""

    def read(self) -> Iterator[tuple[str, float]]:
        """Read what is new: names and values, oldest first."""


class RunMetrics:
    """Follows TensorBoard's events or the CSV file of a run, in a thread of its own.

    Of a run of folds it follows the fold that is being trained.

    Args:
        folder: The run folder.
        interval_s: Between two looks.
    """

    def __init__(self, folder: Path, interval_s: float = 1.0) -> None:
        self._folder = folder
        self._interval_s = interval_s
        self._followed: Path | None = None
        self._files: dict[Path, _File] = {}
        self._values: dict[str, float] = {}
        self._latest: Mapping[str, float] = {}
        self._has_failed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuopt-run-metrics", daemon=True)

    def latest(self) -> Mapping[str, float]:
        """Return the newest value of each metric by name; never waits."""
        return self._latest

    def written_at_s(self) -> float | None:
        """Return when metrics were last written, as Unix time; None before there are any."""
        return max(map(_changed_s, _newest(self._folder)), default=None)

    def start(self) -> None:
        """Begin; the first look is taken at once, in the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def look(self) -> None:
        """Read what is new; a damaged file costs the metrics, not the monitor, and is said once."""
        try:
            self._look()
        except Exception as error:  # whatever a damaged file raises
            if not self._has_failed:
                self._has_failed = True
                _log.warning("%s: metrics cannot be read (%s)", self._folder, error)

    def _run(self) -> None:
        while True:
            self.look()
            if self._stopping.wait(self._interval_s):
                return

    def _look(self) -> None:
        paths = _newest(self._folder)
        if not paths:
            return
        if paths[0].parent != self._followed:
            self._followed, self._files, self._values = paths[0].parent, {}, {}
        for path in paths:
            if path not in self._files:
                self._files[path] = _Table(path) if path.suffix == ".csv" else _Events(path)
            for name, value in self._files[path].read():
                is_room = name in self._values or len(self._values) < _MOST_NAMES
                if is_room and math.isfinite(value) and not _LEFT_OUT.match(name):
                    self._values[name] = value
        self._latest = dict(self._values)


def _newest(folder: Path) -> list[Path]:
    """Find the files in the folder that was written to last, oldest first."""
    groups = (
        sorted(folder.glob(f"{part}/{files}")) for part in _FOLDERS for files in (_EVENTS, _TABLE)
    )
    by_folder: dict[Path, list[Path]] = {}
    for path in (path for group in groups for path in group):
        by_folder.setdefault(path.parent, []).append(path)
    return max(by_folder.values(), key=lambda paths: max(map(_changed_s, paths)), default=[])


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0


class _Events:
    """A file of TensorBoard's events."""

    def __init__(self, path: Path) -> None:
        # Only now: few monitors watch a run.
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

        load: Callable[[], Iterator[Any]] = LegacyEventFileLoader(str(path)).Load
        self._load = load

    def read(self) -> Iterator[tuple[str, float]]:
        for event in self._load():
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    yield value.tag, value.simple_value


class _Table:
    """Lightning's CSV file, which it writes anew when a metric is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = b""
        self._read_bytes = 0

    def read(self) -> Iterator[tuple[str, float]]:
        with self._path.open("rb") as stream:
            header = stream.readline()
            if not header.endswith(b"\n"):
                return
            if header != self._header or self._path.stat().st_size < self._read_bytes:
                self._header, self._read_bytes = header, len(header)
            stream.seek(self._read_bytes)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        text = (header + whole).decode("utf-8", "replace")
        for row in csv.DictReader(io.StringIO(text)):
            for name, value in row.items():
                if name and isinstance(value, str) and (number := _number(value)) is not None:
                    yield name, number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
