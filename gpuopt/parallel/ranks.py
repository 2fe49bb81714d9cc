"""Start the ranks of a run on this machine, watch them, and end them as one.

The ranks are started by TorchElastic, as torchrun does it. Its agent is not used: on a scheduler's
SIGTERM and for the others of a rank that failed it sends the same signal, by which a rank cannot
tell whether to save or to give up, and it waits for 30 seconds.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

# The documented name; PyTorch's types have it below the private torch._C alone.
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    PContext,
    SignalException,
    start_processes,
)

from gpuopt.errors import FaultError, GpuoptError, InputError, PreemptedError
from gpuopt.hardware import available_cpus
from gpuopt.parallel.rank import LAUNCHER

__all__ = ["run_ranks"]

_log = logging.getLogger(__name__)

_ADDRESS = "127.0.0.1"
_POLL_S = 0.1
# Ranks that have lost another one notice it themselves, except where a GPU waits for ever.
_GRACE_S = 10.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# What the ranks are sent instead: with a signal of its own the launcher's request is not taken
# for a second one by ranks that the scheduler has told as well.
_FORWARDED = signal.SIGUSR2
_MEANS_STOP = (*_STOP_SIGNALS, _FORWARDED)


@dataclass(frozen=True)
class _End:
    """How a rank ended."""

    rank: int
    pid: int
    code: int
    message: str
    trace: str

    @property
    def urgency(self) -> int:
        """Tell causes from consequences: of several ends the lowest number is the reason."""
        if self.code < 0:
            return 2 if -self.code in _MEANS_STOP else 0
        # A rank that lost another one fails as a bug does.
        return {2: 1, 3: 1, 4: 1, 75: 2}.get(self.code, 3)


def run_ranks(folder: Path, count: int, *, on_cpu: bool) -> None:
    """Carry out a run with several processes of this machine.

    Args:
        folder: The run folder, locked by this process, with its configuration.
        count: Number of ranks.
        on_cpu: Whether a card is left alone.

    Raises:
        GpuoptError: What ended the first rank that failed; all others have ended, too.
    """
    _refuse_missing_devices(count, on_cpu=on_cpu)
    ranks = _Ranks(folder)
    try:
        ranks.start(count)
        ranks.watch()
    except SignalException as error:  # between TorchElastic's handlers and ours
        name = signal.Signals(error.sigval).name
        raise PreemptedError(f"stopped by {name}; go on with resume={folder}") from error
    finally:
        ranks.close()


def _refuse_missing_devices(count: int, *, on_cpu: bool) -> None:
    if not on_cpu and torch.cuda.is_available():
        there, kind = torch.cuda.device_count(), "CUDA device(s)"
    else:
        there, kind = available_cpus(), "processor(s) and trains on them"
    if count > there:
        raise InputError(f"trainer.devices={count}: this machine has {there} {kind}")


class _Ranks:
    """The ranks of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context: PContext | None = None
        self._store: TCPStore | None = None
        self._logs = tempfile.TemporaryDirectory(prefix="gpuopt_")
        self._stop_signals: list[int] = []
        self._has_forwarded = False
        self._previous: dict[int, Any] = {}
        self._killed: set[int] = set()

    def start(self, count: int) -> None:
        """Start all ranks; each runs `python -m gpuopt.worker` on the folder."""
        # Held here, at a port that the system chooses: no rank has to find a free one.
        self._store = TCPStore(_ADDRESS, 0, is_master=True, wait_for_workers=False)
        self._previous = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT"  # not SIGHUP: nohup works
        self._context = start_processes(
            name="rank",
            entrypoint=sys.executable,
            args={rank: ("-m", "gpuopt.worker", str(self._folder)) for rank in range(count)},
            envs={rank: _environment(rank, count, self._store.port) for rank in range(count)},
            logs_specs=DefaultLogsSpecs(log_dir=self._logs.name),
        )
        for number in _STOP_SIGNALS:
            signal.signal(number, self._note)

    def watch(self) -> None:
        """Wait for all ranks; pass requests to stop on, and end the others of one that failed."""
        while True:
            self._forward()
            codes = [process.poll() for process in self._processes.values()]
            if all(code == 0 for code in codes):
                return
            if any(codes):
                break
            time.sleep(_POLL_S)
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline and None in codes:
            time.sleep(_POLL_S)
            codes = [process.poll() for process in self._processes.values()]
        self._kill()
        self._raise()

    def close(self) -> None:
        """Leave no process, file or handler behind."""
        self._kill()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._store = None
        self._logs.cleanup()

    @property
    def _processes(self) -> Mapping[int, Any]:
        context: Any = self._context
        return {rank: h.proc for rank, h in context.subprocess_handlers.items()} if context else {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._stop_signals.append(number)

    def _forward(self) -> None:
        if len(self._stop_signals) > 1:
            self._kill()
            raise PreemptedError(
                f"stopped at once by a second signal; go on with resume={self._folder}"
            )
        if self._stop_signals and not self._has_forwarded:
            self._has_forwarded = True
            for process in self._processes.values():
                process.send_signal(_FORWARDED)

    def _kill(self) -> None:
        """End what is left, each rank with its loader processes."""
        for rank, process in self._processes.items():
            if process.poll() is None:
                self._killed.add(rank)
                os.killpg(process.pid, signal.SIGKILL)  # a rank leads a group of its own
        for process in self._processes.values():
            process.wait()

    def _raise(self) -> None:
        ends = [
            _End(rank, process.pid, process.returncode, *self._told_by(rank))
            for rank, process in self._processes.items()
            if process.returncode != 0 and rank not in self._killed
        ]
        reason = min(ends, key=lambda end: end.urgency)
        if reason.trace:
            sys.stderr.write(reason.trace)
        error = _as_error(reason, self._folder)
        if self._stop_signals:  # the ranks know it by the name of what was forwarded
            name = signal.Signals(self._stop_signals[0]).name
            error = type(error)(str(error).replace(_FORWARDED.name, name))
        raise error

    def _told_by(self, rank: int) -> tuple[str, str]:
        context: Any = self._context
        try:
            told = json.loads(Path(context.error_files[rank]).read_text("utf-8"))["message"]
            return str(told["message"]), str(told["extraInfo"]["py_callstack"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Write down torchrun's environment of one rank on one host."""
    threads = max(1, available_cpus() // count)
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": _ADDRESS,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "gpuopt",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        LAUNCHER: str(os.getpid()),
    }


def _as_error(end: _End, folder: Path) -> GpuoptError:
    who = f"rank {end.rank}"
    if end.code < 0:
        name = signal.Signals(-end.code).name
        if -end.code in _MEANS_STOP:
            return PreemptedError(f"{who} was stopped by {name}; go on with resume={folder}")
        return FaultError(
            f"{who} (process {end.pid}) was killed by {name}: this machine may be out of memory; "
            f"go on with resume={folder}"
        )
    kinds = (InputError, FaultError, PreemptedError)
    for kind in kinds:
        if end.code == kind.exit_code and end.message:
            return kind(end.message)
    return GpuoptError(
        f"{who} ended with exit code {end.code}: {end.message or 'see its log'} "
        f"(logs are in {folder})"
    )
