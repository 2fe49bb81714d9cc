"""Tasks on emulated cards, each in a process of its own, several at once on the same GPUs."""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["SharedMemory", "TaskFailedError", "run_task"]

# Of a device's memory that emulated cards share; the rest is for the contexts of processes.
_SHARED_RATIO = 0.9
_LINES_OF_ERROR = 6


class TaskFailedError(Exception):
    """A task ended without a result; the message is the end of what it printed."""


class SharedMemory:
    """Hands out devices, so that the emulated cards on each have their memory at the same time.

    Args:
        free_gib: Memory of each device that may be handed out.
    """

    def __init__(self, free_gib: Sequence[float]) -> None:
        self._free_gib = list(free_gib)
        self._most_gib = max(free_gib)
        self._changed = threading.Condition()

    @classmethod
    def of_devices(cls) -> "SharedMemory":
        """Read the devices that are there; without any, a CPU takes all."""
        totals = [
            torch.cuda.get_device_properties(index).total_memory / 2**30 * _SHARED_RATIO
            for index in range(torch.cuda.device_count())
        ]
        return cls(totals or [math.inf])

    @contextlib.contextmanager
    def taken(self, gib: float) -> Iterator[int]:
        """Wait for the device with the most memory to have this much, or all of it; hold it."""
        gib = min(gib, self._most_gib)
        with self._changed:
            self._changed.wait_for(lambda: max(self._free_gib) >= gib)
            device = self._free_gib.index(max(self._free_gib))
            self._free_gib[device] -= gib
        try:
            yield device
        finally:
            with self._changed:
                self._free_gib[device] += gib
                self._changed.notify_all()


def run_task(
    program: str,
    content: Mapping[str, Any],
    target: Path,
    *,
    device: int,
    threads: int = 1,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Carry out one task in a fresh process and return what it wrote.

    Args:
        program: Of `python -m benchmarks`; is started with `--task` and `--output`.
        content: The task as plain values.
        target: JSON file for the result; must not exist yet.
        device: Index of the CUDA device that the process sees.
        threads: CPU threads of each parallel part; several tasks share the processors.
        words: Further arguments.

    Raises:
        TaskFailedError: When it failed.
    """
    command = [sys.executable, "-m", "benchmarks", program, "--output", str(target)]
    command += ["--task", json.dumps(content), *words]
    command += [] if torch.cuda.is_available() else ["--quick"]
    # The caller may see some of the GPUs only, under names of any kind.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": visible.split(",")[device] if visible else str(device),
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode or not target.exists():
        raise TaskFailedError("\n".join(done.stderr.strip().splitlines()[-_LINES_OF_ERROR:]))
    found: dict[str, Any] = json.loads(target.read_text("utf-8"))
    return found
