"""Which process of a run this is, and what it tells the process that started it.

The names of the environment are torchrun's. A rank that `gpuopt train` has started knows its
parent's process number as well: it dies with it, and leaves the last line to it.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuopt.errors import FaultError, GpuoptError
from gpuopt.hardware.parent_death import signal_at_parents_death

__all__ = ["ALONE", "ERROR_FILE", "LAUNCHER", "Rank"]

LAUNCHER = "GPUOPT_LAUNCHER"
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


@dataclass(frozen=True)
class Rank:
    """The place of one process among those that train together; alone unless told otherwise.

    Attributes:
        number: Counted over all hosts.
        local_number: Counted on this host; the CUDA device.
        world_size: Processes on all hosts.
        local_world_size: Processes on this host.
        launcher: Process number of the `gpuopt train` that started this one, or None.
        error_file: Where the launcher or torchrun looks for the reason of a failure.
    """

    number: int = 0
    local_number: int = 0
    world_size: int = 1
    local_world_size: int = 1
    launcher: int | None = None
    error_file: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Rank":
        """Read what torchrun or `gpuopt train` says; alone when neither does."""
        if "TORCHELASTIC_RUN_ID" not in environment:
            return cls()
        launcher, error_file = environment.get(LAUNCHER), environment.get(ERROR_FILE)
        return cls(
            number=int(environment["RANK"]),
            local_number=int(environment["LOCAL_RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_world_size=int(environment["LOCAL_WORLD_SIZE"]),
            launcher=int(launcher) if launcher else None,
            error_file=Path(error_file) if error_file else None,
        )

    @property
    def is_first(self) -> bool:
        """Whether this process writes the results."""
        return self.number == 0

    @property
    def hosts(self) -> int:
        """Machines that take part."""
        return self.world_size // self.local_world_size

    def log_path(self, path: Path) -> Path:
        """Return this process's own log: `train.log`, `train.rank1.log`, ..."""
        return path if self.is_first else path.with_name(f"{path.stem}.rank{self.number}.log")

    def speak_into(self, log: Path) -> None:
        """Let everything that is printed go to a file, C++ libraries' lines included."""
        sys.stdout.flush()
        sys.stderr.flush()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)

    def die_with_launcher(self) -> None:
        """End when the `gpuopt train` that started this process does, even by kill -9."""
        if self.launcher is None:
            return
        signal_at_parents_death(signal.SIGKILL)
        if os.getppid() != self.launcher:  # it died before
            os._exit(1)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the reason of a failure to the parent.

        Under torchrun the error goes on as well, to become this process's last line. A launcher
        of ours says the last line itself, once for all ranks.
        """
        try:
            yield
        except Exception as error:
            known = _as_known(error)
            trace = "" if known else traceback.format_exc()
            self._write(known or error, trace)
            if self.launcher is None:
                raise
            if trace and not self.is_first:
                sys.stderr.write(trace)  # into this rank's log
            sys.exit(known.exit_code if known else GpuoptError.exit_code)

    def _write(self, error: BaseException, trace: str) -> None:
        if self.error_file is None:
            return
        text = str(error) if isinstance(error, GpuoptError) else f"{type(error).__name__}: {error}"
        details = {"py_callstack": trace, "timestamp": str(int(time.time()))}  # torchrun's names
        content = {"message": {"message": text, "extraInfo": details}}
        with contextlib.suppress(OSError):  # the exit code alone must do then
            self.error_file.write_text(json.dumps(content), "utf-8")


ALONE = Rank()
"""The place of a process that trains by itself."""


def _as_known(error: Exception) -> GpuoptError | None:
    if isinstance(error, GpuoptError):
        return error
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return FaultError(f"{place}{error.strerror or error}; nothing that was saved is lost")
    return None
