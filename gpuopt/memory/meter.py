"""What a device says about its memory while a training goes on, behind a seam that tests replace.

Readings never wait for the device, so that every step can take them. What a probe may do
besides, which has the device to itself, is in `gpuopt.memory.probe_meter`, on top of this.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = ["CudaMeter", "MemoryMeter", "MemoryReading", "meter_of"]


@dataclass(frozen=True)
class MemoryReading:
    """Bytes of one device at one moment.

    Attributes:
        total_bytes: The device's memory.
        free_bytes: What the driver would still give to any process.
        allocated_bytes: Tensors of this process.
        reserved_bytes: What this process's allocator holds, tensors included.
        peak_bytes: Most bytes of tensors since the last `start_peak`.
        peak_reserved_bytes: Most bytes that the allocator held since then.
        limit_bytes: What the allocator may hold at most, where it is capped; else the device.
    """

    total_bytes: int
    free_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    peak_bytes: int
    peak_reserved_bytes: int
    limit_bytes: int

    @property
    def available_bytes(self) -> int:
        """What tensors of this process can fill: what it holds, and what is free beside it."""
        return min(self.limit_bytes, self.reserved_bytes + self.free_bytes)

    @property
    def elsewhere_bytes(self) -> int:
        """What neither is free nor held by the allocator: contexts and other processes."""
        return max(0, self.total_bytes - self.free_bytes - self.reserved_bytes)


class MemoryMeter(Protocol):
    """Reads the memory of the device that a module trains on."""

    def read(self) -> MemoryReading:
        """Read everything; asks the driver, but never waits for the device's queue."""

    def start_peak(self) -> None:
        """Forget the peak so far."""

    def retries(self) -> int:
        """Count how often the allocator had to give back its cache to find memory."""

    def workspace_bytes(self) -> int | None:
        """Free what the matrix library holds for itself and say how much it was, if it is known."""

    def snapshot(self) -> Any | None:
        """Describe every block of the allocator, in plain values; None where that is impossible."""


class CudaMeter:
    """PyTorch's allocator and the driver.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def read(self) -> MemoryReading:
        """Read everything."""
        free, total = torch.cuda.mem_get_info(self._device)
        share = torch.cuda.get_per_process_memory_fraction(self._device)
        # The nested form: `torch.cuda.memory_allocated` and its like sort a hundred names a call.
        stats = torch.cuda.memory_stats_as_nested_dict(self._device)
        tensors, blocks = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
        return MemoryReading(
            total_bytes=total,
            free_bytes=free,
            allocated_bytes=tensors["current"],
            reserved_bytes=blocks["current"],
            peak_bytes=tensors["peak"],
            peak_reserved_bytes=blocks["peak"],
            limit_bytes=int(total * share),
        )

    def start_peak(self) -> None:
        """Forget the peak so far."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def retries(self) -> int:
        """Count how often the cache was given back."""
        return int(torch.cuda.memory_stats_as_nested_dict(self._device).get("num_alloc_retries", 0))

    def workspace_bytes(self) -> int | None:
        """Free cuBLAS's workspaces, which lie in PyTorch's allocator."""
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is None:
            return None
        before = torch.cuda.memory_allocated(self._device)
        clear()
        return max(0, before - torch.cuda.memory_allocated(self._device))

    def snapshot(self) -> Any | None:
        """Describe every block of the allocator."""
        return torch.cuda.memory._snapshot(self._device)


def meter_of(device: torch.device) -> MemoryMeter | None:
    """Return what reads a device's memory; None for a CPU, whose allocator counts nothing."""
    return CudaMeter(device) if device.type == "cuda" else None
