"""One job in a process of its own: what it prints is kept, signals reach it, its end is told.

Neither an exit, a crash nor a kill of the job touches the process that started it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

__all__ = ["JobEnd", "StopRequest", "run_job"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_DRAIN_S = 5.0  # how long the last lines may take, when a grandchild keeps the pipe open


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

    Outside of the main thread nothing can be caught, and nothing is.

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
            self._previous = {n: signal.signal(n, self._handle) for n in self.signals}
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

    def attach(self, child: subprocess.Popen[bytes] | None) -> None:
        """Name the process that signals go to; one that came before is passed on now."""
        self._child = child
        if child is not None and self.received is not None and not self._is_passed_on:
            self._pass_on(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._child is not None:
            self._is_passed_on = True
            self._child.send_signal(number)


def run_job(
    command: Sequence[str], log_path: Path, stop: StopRequest, *, prefix: str = ""
) -> JobEnd:
    """Run a command to its end, whatever that is.

    The job has a process group of its own, so that Ctrl-C reaches it once, through `stop`. When
    this process dies by kill -9, Linux sends the job SIGTERM.

    Args:
        command: Program and arguments.
        log_path: Receives stdout and stderr; appended to.
        stop: Passes signals on; entered by the caller.
        prefix: Stands before every line of the job on this process's own stdout and stderr.

    Raises:
        OSError: When the program or the log cannot be opened.
    """
    began = time.monotonic()
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # lines come when they are written
            process_group=0,
            preexec_fn=_death_signal(),
        )
        stop.attach(child)
        assert child.stdout is not None
        assert child.stderr is not None
        lock = threading.Lock()
        readers = [
            _Reader(child.stdout, log, lock, sys.stdout, prefix),
            _Reader(child.stderr, log, lock, sys.stderr, prefix),
        ]
        for reader in readers:
            reader.start()
        code = child.wait()
        stop.attach(None)
        for reader in readers:
            reader.join(_DRAIN_S)
        with lock:  # a reader that is still alive writes no more
            for reader in readers:
                reader.is_muted = True
    name = "" if code >= 0 else _signal_name(-code)
    return JobEnd(max(code, 0), name, readers[1].last_line, time.monotonic() - began)


class _Reader(threading.Thread):
    """Copies lines of a pipe to a log and a terminal; never stops reading, else the job hangs."""

    def __init__(
        self, pipe: IO[bytes], log: IO[bytes], lock: threading.Lock, screen: IO[str], prefix: str
    ) -> None:
        super().__init__(daemon=True)
        self.last_line = ""
        self.is_muted = False
        self._pipe, self._log, self._lock = pipe, log, lock
        self._screen, self._prefix = screen, prefix

    def run(self) -> None:
        """Read until every writer has closed the pipe."""
        with self._pipe:
            for line in self._pipe:
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                with self._lock:
                    if not self.is_muted:
                        self._copy(line, text)
                if text.strip():
                    self.last_line = text.strip()

    def _copy(self, line: bytes, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk
            self._log.write(line)
            self._log.flush()
        with contextlib.suppress(OSError, ValueError):  # a closed terminal
            self._screen.write(f"{self._prefix}{text}\n")
            self._screen.flush()


def _death_signal() -> Callable[[], None] | None:
    """Return what asks the kernel for SIGTERM at the parent's death; only Linux can do that."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
