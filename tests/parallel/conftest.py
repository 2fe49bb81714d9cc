"""Runs of two ranks, in processes of their own."""

import csv
import os
import signal
from pathlib import Path

import pytest

from gpuopt.hardware import available_cpus
from tests.faults.commands import Command, End

LIMIT_S = 240  # for a machine that is busy with other work


class TwoRanks:
    """`gpuopt train` with two ranks, running.

    Args:
        folder: The run folder.
        words: The settings.
        module: What starts it; `gpuopt train` unless told otherwise.
        options: Of `Command`; its ranks are forked where the command is.
    """

    def __init__(self, folder, *words: str, module="gpuopt.train", **options):
        self.folder = folder
        options = {"children": 4, **options}
        self.command = Command(module, *words, cwd=folder.parent, **options)

    def ranks(self) -> dict[int, int]:
        """Process numbers by rank."""
        return self.command.ranks()

    def wait_for_a_save(self):
        """Return once `last.ckpt` is newer than it was at the call."""
        path = self.folder / "checkpoints/last.ckpt"
        before = path.stat().st_mtime_ns if path.exists() else 0
        self.command.wait_until(
            lambda: path.exists() and path.stat().st_mtime_ns != before, LIMIT_S
        )

    def end(self) -> End:
        """Wait for the end."""
        return self.command.end(LIMIT_S)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(*pids: int, number=signal.SIGKILL):
    for pid in pids:
        os.kill(pid, number)


def read_scalars(folder: Path, name: str) -> list[float]:
    with (folder / "csv/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.fixture(scope="package")
def two(tiny) -> tuple[str, ...]:
    """Settings of a small run of two ranks, which take two micro-batches for each step."""
    if available_cpus() < 2:
        pytest.skip("two ranks need two processors")
    return (*tiny, "trainer.devices=2", "micro_batch_size=32", "logger=csv")
