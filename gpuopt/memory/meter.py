"""Reading how much memory a device has left and how much a few steps have taken."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from gpuopt.memory.device_errors import free_memory

__all__ = ["CudaMeter", "MemoryMeter"]


class MemoryMeter(Protocol):
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


class CudaMeter:
    """Reads PyTorch's allocator and the driver.

    Memory of other processes, CUDA's context and what libraries take beside the allocator are no
    part of the capacity: the driver does not call them free.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device | int = 0) -> None:
        self._device = torch.device("cuda", device) if isinstance(device, int) else device

    def capacity_bytes(self) -> int:
        """Return free memory and what the allocator holds, within a cap that was set before."""
        free, total = torch.cuda.mem_get_info(self._device)
        held = torch.cuda.memory_reserved(self._device)
        return min(int(free) + held, int(self._share() * total))

    def start(self) -> None:
        """Give cached memory back to the device and forget the peak."""
        free_memory()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """Return the most that was reserved; pieces too small to use count as well."""
        return int(torch.cuda.max_memory_reserved(self._device))

    def resident_bytes(self) -> int:
        """Return what is allocated now."""
        return int(torch.cuda.memory_allocated(self._device))

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
        before = self._share()
        total = torch.cuda.get_device_properties(self._device).total_memory
        torch.cuda.memory.set_per_process_memory_fraction(
            min(before, self.capacity_bytes() / total), self._device
        )
        try:
            yield
        finally:
            torch.cuda.memory.set_per_process_memory_fraction(before, self._device)

    def _share(self) -> float:
        return float(torch.cuda.memory.get_per_process_memory_fraction(self._device))
