"""Who holds a GPU's memory, and what of it this process may free: its own cache, nothing else."""

import gc
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gpuopt.hardware import Device, DeviceProcess

__all__ = ["CleanupDiagnosis", "HeldMemory", "free_own_cache", "held_memory"]

_PROC = Path("/proc")
_GIB = 2**30


@dataclass(frozen=True)
class HeldMemory:
    """Memory of one device.

    Attributes:
        index: In CUDA's order.
        name: Of the device; None when it cannot be read.
        used_bytes: By all processes; None when it cannot be read.
        total_bytes: All of it.
        own_bytes: What PyTorch's allocator of this process holds.
        freed_bytes: Of that, what was given back.
        processes: Other processes; None when the driver does not tell.
    """

    index: int
    name: str | None
    used_bytes: int | None
    total_bytes: int | None
    own_bytes: int
    freed_bytes: int
    processes: Sequence[DeviceProcess] | None


@dataclass(frozen=True)
class CleanupDiagnosis:
    """What holds the memory of all devices.

    Attributes:
        devices: In CUDA's order.
    """

    devices: Sequence[HeldMemory]

    @property
    def verdict(self) -> str:
        """Say in one sentence who holds memory."""
        if not self.devices:
            return "No NVIDIA GPU was found: no process holds memory of one."
        freed_bytes = sum(device.freed_bytes for device in self.devices)
        freed = f"; {freed_bytes / _GIB:.2f} GiB of this process's cache were freed"
        freed = freed if freed_bytes else ""
        others = [process for device in self.devices for process in device.processes or ()]
        if others:
            return f"{len(others)} other process(es) hold GPU memory; none was ended{freed}."
        if any(device.processes is None for device in self.devices):
            return f"The driver does not tell which processes hold GPU memory{freed}."
        return f"No other process holds GPU memory{freed}."

    def lines(self) -> list[str]:
        """Say of each process who it is and which command would end it."""
        return [
            line
            for device in self.devices
            for process in device.processes or ()
            for line in [_in_words(device.index, process)]
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "verdict": self.verdict,
            "devices": [asdict(device) for device in self.devices],
            "commands": self.lines(),
        }


def free_own_cache() -> int:
    """Give back what PyTorch's allocators of this process hold and nobody uses; returns bytes."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    devices = range(torch.cuda.device_count())
    before = sum(torch.cuda.memory_reserved(index) for index in devices)
    gc.collect()
    torch.cuda.empty_cache()
    return before - sum(torch.cuda.memory_reserved(index) for index in devices)


def held_memory(devices: Sequence[Device]) -> CleanupDiagnosis:
    """Look at who holds memory, and free this process's own cache.

    Args:
        devices: To look at, such as `cuda_devices()`.
    """
    is_used = torch.cuda.is_available() and torch.cuda.is_initialized()
    found = []
    for device in devices:
        held_bytes = torch.cuda.memory_reserved(device.index) if is_used else 0
        found.append((device, held_bytes))
    free_own_cache()
    answers = []
    for device, held_bytes in found:
        kept_bytes = torch.cuda.memory_reserved(device.index) if is_used else 0
        reading = device.read()
        processes = reading.processes
        others = None if processes is None else [p for p in processes if p.pid != os.getpid()]
        answers.append(
            HeldMemory(
                index=device.index,
                name=reading.name,
                used_bytes=reading.memory_used_bytes,
                total_bytes=reading.memory_total_bytes,
                own_bytes=kept_bytes,
                freed_bytes=held_bytes - kept_bytes,
                processes=others,
            )
        )
    return CleanupDiagnosis(answers)


def _in_words(index: int, process: DeviceProcess, proc: Path = _PROC) -> str:
    """Say who a process is; one of another container has no entry of this number here."""
    held = process.memory_used_bytes
    size = "memory of unknown size" if held is None else f"{held / _GIB:.2f} GiB"
    name = process.name or "a process without a name"
    start = f"GPU {index}: {name} (pid {process.pid}) holds {size}"
    try:
        owner = (proc / str(process.pid)).stat().st_uid
    except OSError:
        return f"{start}; it is not in this container: end it where it was started"
    if owner == os.getuid():
        return f"{start}; `kill {process.pid}` would end it"
    return f"{start}; it is another user's: `sudo kill {process.pid}` would end it"
