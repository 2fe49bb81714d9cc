"""Runs of two ranks, in processes of their own: each takes about fifteen seconds to start."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuopt.hardware import available_cpus

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
LIMIT_S = 240  # for a machine that is busy with other work


class TwoRanks:
    """`gpuopt train` with two ranks, running.

    Args:
        folder: The run folder.
        words: The settings.
        command: What starts it; `gpuopt train` unless told otherwise.
        environment: Further variables.
    """

    def __init__(self, folder, *words: str, command=("-m", "gpuopt.train"), environment=()):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, *command, *words],
            cwd=folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | dict(environment),
        )

    def ranks(self) -> dict[int, int]:
        """Process numbers by rank."""
        found = {}
        for name in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((name / "stat").read_text().rpartition(")")[2].split()[1])
                words = (name / "environ").read_text().split("\0")
            except (OSError, ValueError):
                continue
            if parent == self.process.pid:
                found |= {int(w[5:]): int(name.name) for w in words if w.startswith("RANK=")}
        return found

    def wait_for_a_save(self):
        """Return once `last.ckpt` is newer than it was at the call."""
        path = self.folder / "checkpoints/last.ckpt"
        before = path.stat().st_mtime_ns if path.exists() else 0
        deadline = time.monotonic() + LIMIT_S
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "no checkpoint was saved"
            time.sleep(0.01)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code, stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, stdout, stderr


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(*pids: int, number=signal.SIGKILL):
    for pid in pids:
        os.kill(pid, number)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def read_scalars(folder: Path, name: str) -> list[float]:
    with (folder / "csv/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.fixture(scope="package")
def two(tiny) -> tuple[str, ...]:
    """Settings of a small run of two ranks, which take two micro-batches for each step."""
    if available_cpus() < 2:
        pytest.skip("two ranks need two processors")
    return (*tiny, "trainer.devices=2", "micro_batch_size=32", "logger=csv")
