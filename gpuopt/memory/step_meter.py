"""Measuring a few steps on a device: how much memory they take and how long they last."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from gpuopt.memory.device_errors import free_memory
from gpuopt.memory.meter import CudaMeter

__all__ = ["CudaStepMeter", "StepMeter", "step_meter_of"]


class StepMeter(Protocol):
    """What a probe asks of a device; tests put a simulated one in the place of CUDA."""

    def capacity_bytes(self) -> int:
        """Return what the allocator could have now: free memory and what it holds already."""
        ...

    def start(self) -> None:
        """Give cached memory back to the device and forget the peak."""
        ...

    def peak_bytes(self) -> int:
        """Return the most that the allocator has held since `start`."""
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


class CudaStepMeter:
    """Reads PyTorch's allocator and the driver.

    Memory of other processes, CUDA's context and what libraries take beside the allocator are no
    part of the capacity: the driver does not call them free.

    Args:
        device: A CUDA device or its index.
    """

    def __init__(self, device: torch.device | int = 0) -> None:
        self._device = torch.device("cuda", device) if isinstance(device, int) else device
        self._meter = CudaMeter(self._device)

    def capacity_bytes(self) -> int:
        """Return free memory and what the allocator holds, within a cap that was set before."""
        return self._meter.read().available_bytes

    def start(self) -> None:
        """Give cached memory back to the device and forget the peak."""
        free_memory()
        self._meter.start_peak()

    def peak_bytes(self) -> int:
        """Return the most that was reserved; pieces too small to use count as well."""
        return self._meter.read().peak_reserved_bytes

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


def step_meter_of(device: torch.device) -> StepMeter | None:
    """Return what measures steps on a device; None for a CPU, whose allocator counts nothing."""
    return CudaStepMeter(device) if device.type == "cuda" else None
