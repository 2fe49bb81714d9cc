"""Starting gpuopt's commands as a user would, in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gpuopt

__all__ = ["Finished", "child_environment", "console_command", "run_timed"]

_ROOT = Path(gpuopt.__file__).parent.parent


@dataclass(frozen=True)
class Finished:
    """A process that has ended.

    Attributes:
        duration_s: From its start to its end.
        exit_code: As the shell sees it.
        last_line: Of stderr.
    """

    duration_s: float
    exit_code: int
    last_line: str


def run_timed(words: Sequence[str], folder: Path) -> Finished:
    """Run a command in a folder and time it; what it prints is dropped, its errors are kept.

    Args:
        words: The command and its arguments.
        folder: Where it runs.
    """
    began_s = time.perf_counter()
    done = subprocess.run(
        words,
        cwd=folder,
        env=child_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    duration_s = time.perf_counter() - began_s
    lines = done.stderr.strip().splitlines()
    return Finished(duration_s, done.returncode, lines[-1] if lines else "")


def child_environment() -> dict[str, str]:
    """Return the variables with which a child finds the package that this process uses.

    It does so also in a checkout that is not installed.
    """
    search = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": search}


def console_command() -> list[str]:
    """Return the words that start `gpuopt`: its script, or the module where there is none."""
    script = Path(sys.executable).with_name("gpuopt")
    return [str(script)] if script.exists() else [sys.executable, "-m", "gpuopt"]
