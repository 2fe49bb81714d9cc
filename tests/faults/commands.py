"""Real commands in processes of their own, with faults, kept on a leash."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import spares
from tests.faults.injection import VARIABLE

__all__ = ["Command", "End", "Warm", "fault"]

_ROOT = Path(__file__).parents[2]
_STARTUP = Path(__file__).parent / "startup"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "120"}
LIMIT_S = 120.0  # a command that has not ended by then hangs


def fault(
    point: str, do: str = "kill", call: int = 1, path: Path | None = None, *, lasting: bool = False
) -> dict[str, Any]:
    """Write down a fault: see `injection`."""
    return {"point": point, "do": do, "call": call, "path": str(path), "lasting": lasting}


@dataclass(frozen=True)
class End:
    """How a command ended: exit code (negative: a signal), and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else ""


class Warm:
    """Starts commands from a process that has imported everything; `light`: all but torch."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.warm", *words],
            cwd=_ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, request: Mapping[str, Any]) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


class Command:
    """`python -m gpuopt.NAME WORDS`, running, as the leader of a session of its own.

    Args:
        words: The module and its settings.
        cwd: Where it runs.
        faults: What shall happen in it.
        environment: Further variables.
        warm: Forked from there instead of started by a new interpreter.
        children: How many of its ranks, folds or jobs are forked like that, and of theirs.
        pictures: Draw those of a run, where it is forked.
    """

    def __init__(
        self,
        *words: str,
        cwd: Path,
        faults: tuple[Mapping[str, Any], ...] = (),
        environment: Mapping[str, str] | None = None,
        warm: Warm | None = None,
        children: int = 0,
        pictures: bool = False,
    ) -> None:
        self._logs = tempfile.TemporaryDirectory(prefix="gpuopt_fault_")
        self._log = Path(self._logs.name)
        own = {**ENVIRONMENT, **(environment or {})}
        own |= {VARIABLE: json.dumps(faults)} if faults else {}
        self._code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if warm:
            own |= {spares.VARIABLE: str(children)} if children else {}
            own |= {spares.PICTURES: "1"} if pictures else {}
            names = {name: str(self._log / name) for name in ("stdout", "stderr", "status")}
            self.pid = warm.start({"words": words, "cwd": str(cwd), "environment": own, **names})
        else:
            own |= {"PYTHONPATH": os.pathsep.join([str(_STARTUP), str(_ROOT)])} if faults else {}
            with (self._log / "stdout").open("wb") as out, (self._log / "stderr").open("wb") as err:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    cwd=cwd,
                    env=own,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            self.pid = self._process.pid
        self._sessions = {self.pid}  # of its processes

    def code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self._code is None and self._process:
            self._code = self._process.poll()
        elif self._code is None:
            with contextlib.suppress(OSError):
                self._code = int((self._log / "status").read_text())
        return self._code

    def said(self) -> str:
        """Return what stands on stderr by now."""
        return (self._log / "stderr").read_text("utf-8", "replace")

    def children(self) -> dict[int, str]:
        """Return the living processes that it has started, and what each says that it is."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                name = (folder / "comm").read_text().strip()
                if int(parent) == self.pid and state not in "ZX" and name != "spare":
                    words = dict(w.partition("=")[::2] for w in _environment(folder))
                    found[int(folder.name)] = f"rank {words['RANK']}" if "RANK" in words else name
        return found

    def ranks(self) -> dict[int, int]:
        """Return the process numbers of its ranks."""
        return {int(n[5:]): pid for pid, n in self.children().items() if n.startswith("rank ")}

    def send(self, number: int) -> None:
        """Send a signal to the command's own process."""
        os.kill(self.pid, number)

    def wait_until(self, holds: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Wait for something that the running command brings about."""
        deadline = time.monotonic() + limit_s
        while not holds():
            assert self.code() is None, self.said()
            assert time.monotonic() < deadline, f"waited in vain:\n{self.said()}"
            time.sleep(0.01)

    def end(self, limit_s: float = LIMIT_S) -> End:
        """Wait for the end; a command that hangs is ended, with all that it started."""
        deadline = time.monotonic() + limit_s
        while (code := self.code()) is None:
            if time.monotonic() > deadline:
                said = self.said()
                self.give_up()
                raise AssertionError(f"hangs after {limit_s} s:\n{said}")
            time.sleep(0.01)
        end = End(code, (self._log / "stdout").read_text("utf-8", "replace"), self.said())
        self._logs.cleanup()
        return end

    def give_up(self) -> None:
        """End the command and all processes of its session."""
        for pid in self.family():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        while self.code() is None:
            time.sleep(0.01)
        self._logs.cleanup()

    def wait_for_orphans(self, limit_s: float = 30) -> None:
        """Wait until the processes that an ended command has started have noticed it."""
        deadline = time.monotonic() + limit_s
        while orphans := self.family():
            assert time.monotonic() < deadline, f"processes {orphans} of the command live on"
            time.sleep(0.02)

    def family(self) -> list[int]:
        """List the living processes of the command, such as loaders of a killed one.

        Ranks lead sessions of their own: they are found as children, and known from then on.
        """
        living = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if state not in "ZX":
                    living[int(stat.parent.name)] = int(parent), int(session)
        found: set[int] = set()
        for _ in range(3):  # generations: ranks or folds, and their loaders
            for pid, (parent, session) in living.items():
                if pid == self.pid or parent in found or session in self._sessions:
                    found.add(pid)
                    self._sessions.add(session)
        return sorted(found)


def _environment(folder: Path) -> list[str]:
    """Read the variables that a process was started with, of a forked one its server's."""
    return (folder / "environ").read_text().split("\0")
