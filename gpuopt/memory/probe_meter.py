"""Measuring the steps of a probe: how much memory they need and how long they last.

`gpuopt.memory.meter` reads the device while a training goes on, and must not disturb it. A probe
owns the device until it ends, so its meter may do more: give the cache back, wait for the queue,
cap the allocator, and tell what a step needs from what the allocator happens to hold.
"""

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch

from gpuopt.memory.device_errors import free_memory
from gpuopt.memory.meter import CudaMeter

__all__ = ["AllocatorMeter", "CudaProbeMeter", "ProbeMeter", "live_bytes_of", "probe_meter_of"]


class ProbeMeter(Protocol):
    """What a probe asks of a device; tests put a simulated one in the place of CUDA."""

    def capacity_bytes(self) -> int:
        """Return what the allocator could have now: free memory and what it holds already."""
        ...

    def start(self) -> None:
        """Give cached memory back to the device and forget the peak."""
        ...

    def peak_bytes(self) -> int:
        """Return the most that the allocator has needed since `start`."""
        ...

    def resident_bytes(self) -> int:
        """Return what is allocated now."""
        ...

    def clock_s(self) -> float:
        """Wait for the device and return a monotonic time in seconds."""
        ...

    def capped(self) -> AbstractContextManager[None]:
        """Let the allocator fail, inside of the context, before the driver does."""
        ...


@runtime_checkable
class AllocatorMeter(Protocol):
    """What a meter may offer besides: a look into an allocator that keeps a cache."""

    def note_fragments(self) -> None:
        """Called when a step is at its fullest: between its forward and its backward pass."""
        ...

    def live_bytes(self) -> int:
        """Return the most bytes of tensors since `start`, without the pieces between them."""
        ...

    def retries(self) -> int:
        """Count how often the allocator had to give back its cache to find memory."""
        ...


class CudaProbeMeter:
    """Reads PyTorch's allocator and the driver.

    The allocator holds more than its tensors: free blocks that it would give back before it fails,
    and pieces between tensors that it cannot. Tensors and pieces at a step's fullest are what the
    step needs. All that is held would be up to a third more (1.1 times the tensors of a ResNet-50,
    1.3 times those of checkpointed networks, on an H100).

    Memory of other processes, CUDA's context and what libraries take beside the allocator are no
    part of the capacity: the driver does not call them free.

    Args:
        device: A CUDA device or its index.
    """

    def __init__(self, device: torch.device | int = 0) -> None:
        self._device = torch.device("cuda", device) if isinstance(device, int) else device
        self._meter = CudaMeter(self._device)
        self._fragments_bytes: int | None = None

    def capacity_bytes(self) -> int:
        """Return free memory and what the allocator holds, within a cap that was set before."""
        return self._meter.read().available_bytes

    def start(self) -> None:
        """Give cached memory back to the device and forget the peak."""
        free_memory()
        self._meter.start_peak()
        self._fragments_bytes = None

    def peak_bytes(self) -> int:
        """Return the peak of the tensors and the pieces that no tensor could have used."""
        reading = self._meter.read()
        pieces = self._fragments_bytes
        if pieces is None:
            pieces = self._pieces_bytes("peak")
        return min(reading.peak_reserved_bytes, reading.peak_bytes + pieces)

    def note_fragments(self) -> None:
        """Read the pieces that cannot be given back now; those of the newest step count."""
        self._fragments_bytes = self._pieces_bytes("current")

    def live_bytes(self) -> int:
        """Return the peak of the tensors alone."""
        return self._meter.read().peak_bytes

    def retries(self) -> int:
        """Count how often the allocator gave back its cache."""
        return self._meter.retries()

    def resident_bytes(self) -> int:
        """Return what is allocated now."""
        return self._meter.read().allocated_bytes

    def clock_s(self) -> float:
        """Wait for the device and return a monotonic time in seconds."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextlib.contextmanager
    def capped(self) -> Iterator[None]:
        """Keep the allocator below what is free.

        On Windows and WSL the driver would lend memory of the host instead of failing, and a step
        would take ten times as long.
        """
        before = torch.cuda.memory.get_per_process_memory_fraction(self._device)
        reading = self._meter.read()
        share = min(before, reading.available_bytes / reading.total_bytes)
        torch.cuda.memory.set_per_process_memory_fraction(share, self._device)
        try:
            yield
        finally:
            torch.cuda.memory.set_per_process_memory_fraction(before, self._device)

    def _pieces_bytes(self, when: str) -> int:
        stats = torch.cuda.memory_stats_as_nested_dict(self._device)
        return int(stats["inactive_split_bytes"]["all"][when])


def probe_meter_of(device: torch.device) -> ProbeMeter | None:
    """Return what measures steps on a device; None for a CPU, whose allocator counts nothing."""
    return CudaProbeMeter(device) if device.type == "cuda" else None


def live_bytes_of(meter: ProbeMeter) -> int:
    """Return the peak of the tensors alone; 0 from a meter that does not tell them apart."""
    return meter.live_bytes() if isinstance(meter, AllocatorMeter) else 0
