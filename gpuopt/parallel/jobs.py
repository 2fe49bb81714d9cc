"""One job in a process of its own: what it prints is kept, signals reach it, its end is told.

Neither an exit, a crash nor a kill of the job touches the process that started it.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

from gpuopt.hardware.parent_death import signal_at_parents_death

__all__ = ["JobEnd", "StopRequest", "run_job"]

_POLL_S = 0.1


@dataclass(frozen=True)
class JobEnd:
    """How a job ended.

    Attributes:
        exit_code: Of the process; 0 when a signal ended it.
        signal_name: Such as `SIGKILL`; empty when the process ended by itself.
        last_line: The last line that it wrote to stderr, without line end.
        duration_s: Wall time in seconds.
    """

    exit_code: int
    signal_name: str
    last_line: str
    duration_s: float


class StopRequest:
    """Catches SIGINT, SIGTERM and SIGUSR1 in a `with` block and passes them to the job in it.

    SIGUSR2 too, where somebody answers it: submitit, which would ask SLURM to start the job again
    and end this process while the job still saves. It is told when the block ends. Outside of the
    main thread nothing can be caught, and nothing is.

    Attributes:
        received: The first signal, or None.
    """

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_passed_on = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._handle) for n in self._answered()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.received == signal.SIGUSR2:
            signal.raise_signal(self.received)

    def attach(self, child: subprocess.Popen[bytes] | None) -> None:
        """Name the process that signals go to; one that came before is passed on now."""
        self._child = child
        if child is not None and self.received is not None and not self._is_passed_on:
            self._pass_on(self.received)

    def _answered(self) -> tuple[signal.Signals, ...]:
        waits = callable(signal.getsignal(signal.SIGUSR2))
        return (*self.signals, signal.SIGUSR2) if waits else self.signals

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._child is not None:
            self._is_passed_on = True
            self._child.send_signal(number)


def run_job(command: Sequence[str], folder: Path, stop: StopRequest, *, prefix: str = "") -> JobEnd:
    """Run a command to its end, whatever that is.

    The job has a process group of its own, so that Ctrl-C reaches it once, through `stop`. When
    this process dies by kill -9, Linux sends the job SIGTERM. The job writes to files, not to
    pipes: those would break with this process, and the job could not end in order.

    Args:
        command: Program and arguments.
        folder: Receives `stdout.log` and `stderr.log`; appended to.
        stop: Passes signals on; entered by the caller.
        prefix: Stands before every line of the job on this process's own stdout and stderr.

    Raises:
        OSError: When the program or the files cannot be opened.
    """
    began = time.monotonic()
    paths = folder / "stdout.log", folder / "stderr.log"
    with paths[0].open("ab") as output, paths[1].open("ab") as errors:
        followers = [
            _Follower(paths[0], output.tell(), sys.stdout, prefix),
            _Follower(paths[1], errors.tell(), sys.stderr, prefix),
        ]
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # lines come when they are written
            process_group=0,
            preexec_fn=functools.partial(_end_with, os.getpid()),
        )
    stop.attach(child)
    # No threads: Linux would send the death signal again for every one of them.
    while (code := child.poll()) is None:
        time.sleep(_POLL_S)
        for follower in followers:
            follower.copy()
    stop.attach(None)
    for follower in followers:
        follower.copy(is_last=True)
    name = "" if code >= 0 else _signal_name(-code)
    return JobEnd(max(code, 0), name, followers[1].last_line, time.monotonic() - began)


class _Follower:
    """Copies what is appended to a file, line by line, to a terminal."""

    def __init__(self, path: Path, offset: int, screen: IO[str], prefix: str) -> None:
        self.last_line = ""
        self._path, self._offset, self._part = path, offset, b""
        self._screen, self._prefix = screen, prefix

    def copy(self, *, is_last: bool = False) -> None:
        """Copy the lines that are new, at the end also one without a line end."""
        content = b""
        with contextlib.suppress(OSError), self._path.open("rb") as stream:  # it was taken away
            stream.seek(self._offset)
            content = stream.read()
        self._offset += len(content)
        *lines, self._part = (self._part + content).split(b"\n")
        for line in [*lines, self._part] if is_last and self._part else lines:
            self._show(line.decode("utf-8", "replace").rstrip("\r"))

    def _show(self, text: str) -> None:
        if text.strip():
            self.last_line = text.strip()
        with contextlib.suppress(OSError, ValueError):  # a closed terminal
            self._screen.write(f"{self._prefix}{text}\n")
            self._screen.flush()


def _end_with(parent: int) -> None:
    """Ask for SIGTERM at the parent's death."""
    signal_at_parents_death(signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
