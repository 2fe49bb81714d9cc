"""How much memory was held, over the time of the steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuopt.profiling.trace import Trace

__all__ = ["MemoryPoint", "memory_timeline", "thinned"]


@dataclass(frozen=True)
class MemoryPoint:
    """The memory that is held from an instant on.

    Attributes:
        ms: Since the first step began.
        allocated_bytes: In tensors. Of a CPU what was taken since recording began, less what was
            given back: it may be below 0.
        reserved_bytes: By the allocator of a CUDA device; 0 on a CPU.
    """

    ms: float
    allocated_bytes: int
    reserved_bytes: int


def memory_timeline(trace: Trace) -> list[MemoryPoint]:
    """Follow the memory of the device, or of the host where there is no device."""
    on_device = any(allocation.is_device for allocation in trace.allocations)
    return [
        MemoryPoint(
            (allocation.at_us - trace.start_us) / 1000,
            allocation.allocated_bytes,
            allocation.reserved_bytes,
        )
        for allocation in trace.allocations
        if allocation.is_device == on_device and trace.start_us <= allocation.at_us <= trace.end_us
    ]


def thinned(points: Sequence[MemoryPoint], count: int) -> list[MemoryPoint]:
    """Keep about `count` points: of each stretch of time the highest.

    Args:
        points: In the order of time.
        count: At least 1.
    """
    if len(points) <= count:
        return list(points)
    span = (points[-1].ms - points[0].ms) / count or 1.0
    kept: dict[int, MemoryPoint] = {}
    for point in points:
        stretch = int((point.ms - points[0].ms) / span)
        if stretch not in kept or point.allocated_bytes > kept[stretch].allocated_bytes:
            kept[stretch] = point
    return list(kept.values())
