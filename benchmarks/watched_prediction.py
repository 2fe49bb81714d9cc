"""`gpuopt predict` in a fresh process, watched from outside: how long it takes, and with what.

The command runs as any user's. When what happened is seen from the lines that it prints and from
the files beside its output, which grow by one block with each batch.
"""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from benchmarks.commands import child_environment
from gpuopt.storage.part_file import part_file

__all__ = ["PREDICT", "WatchedPrediction", "watch_prediction"]

PREDICT = (sys.executable, "-m", "gpuopt.predict")
"""The words that start the command."""

_POLL_S = 0.01


@dataclass(frozen=True)
class WatchedPrediction:
    """One command.

    Attributes:
        wall_s: From the start of the process to its end.
        start_s: Until it says what it chose: imports, the device, the first model.
        images_s: From then until its images are open, decoded ones kept.
        models_s: From then until the first batch is predicted: models or engines, loader
            processes, first calls.
        batches_s: From the first to the last batch on the disk.
        write_s: From then on: the CSV, the end of the process.
        batches_ratio: Share of all images in `batches_s`, which the first batch is no part of.
        lines: What it printed.
    """

    wall_s: float
    start_s: float
    images_s: float
    models_s: float
    batches_s: float
    write_s: float
    batches_ratio: float
    lines: tuple[str, ...]

    def images_per_second(self, images: int) -> float | None:
        """Return the rate between the first and the last batch; None for a single one."""
        return images * self.batches_ratio / self.batches_s if self.batches_ratio > 0 else None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for a result file."""
        home = str(Path.home())  # nobody's business
        return {**asdict(self), "lines": [line.replace(home, "~") for line in self.lines]}

    def __str__(self) -> str:
        """Word it in a line."""
        return (
            f"{self.wall_s:.2f} s: start {self.start_s:.2f}, images {self.images_s:.2f}, models "
            f"{self.models_s:.2f}, batches {self.batches_s:.2f}, write {self.write_s:.2f}"
        )


def watch_prediction(
    words: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = PREDICT,
) -> WatchedPrediction:
    """Run the command and note when what happens.

    Args:
        words: Its settings, without `output`.
        output: The CSV, which must not exist; nothing else lies beside it.
        environment: Variables to set.
        command: The words before the settings.

    Raises:
        RuntimeError: When the command fails; has its last line.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, *words, f"output={output}"],
        cwd=output.parent,
        env={**child_environment(), **(environment or {}), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None  # both are pipes
        assert process.stderr is not None
        said, errors = _Lines(process.stdout), _Lines(process.stderr)
        growth = _Growth(output)
        while process.poll() is None:
            growth.look()
            time.sleep(_POLL_S)
        ended = time.perf_counter()
        said.join()
        errors.join()
    if process.returncode:
        last = errors.lines[-1][1] if errors.lines else f"exit code {process.returncode}"
        raise RuntimeError(f"gpuopt predict failed: {last}")
    return _stages(began, ended, said.lines, growth.seen)


class _Lines(threading.Thread):
    """Reads a stream to its end and notes when each line came."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True)
        self.lines: list[tuple[float, str]] = []
        self._stream = stream
        self.start()

    def run(self) -> None:
        """Read to the end."""
        for line in self._stream:
            self.lines.append((time.perf_counter(), line.rstrip("\n")))


class _Growth:
    """Notes when the files beside an output grow: one for each pass over the images."""

    def __init__(self, output: Path) -> None:
        self.seen: list[tuple[float, int]] = []
        self._output = output
        self._sizes_bytes: dict[str, int] = {}

    def look(self) -> None:
        """Note all bytes that were written so far, where they have become more."""
        first = part_file(self._output)
        for file in first.parent.glob(f"{first.name}*"):
            with contextlib.suppress(FileNotFoundError):  # a pass that is over
                self._sizes_bytes[file.name] = file.stat().st_size
        total_bytes = sum(self._sizes_bytes.values())
        # An empty file has been made, but not begun.
        if total_bytes and (not self.seen or self.seen[-1][1] != total_bytes):
            self.seen.append((time.perf_counter(), total_bytes))


def _stages(
    began: float,
    ended: float,
    lines: Sequence[tuple[float, str]],
    growth: Sequence[tuple[float, int]],
) -> WatchedPrediction:
    """Cut a run at what was seen; what was too quick to be seen took no time."""
    started = lines[0][0] if lines else began
    opened = growth[0][0] if growth else started
    # A file that was first seen with a block in it was opened and begun at once.
    first = growth[1] if len(growth) > 1 else (opened, 0)
    last = growth[-1] if len(growth) > 1 else first
    written_bytes = last[1] - growth[0][1] if growth else 0
    ratio = (last[1] - first[1]) / written_bytes if written_bytes > 0 else 0.0
    return WatchedPrediction(
        ended - began,
        started - began,
        opened - started,
        first[0] - opened,
        last[0] - first[0],
        ended - last[0],
        ratio,
        tuple(text for _, text in lines),
    )
