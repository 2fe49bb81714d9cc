"""Which kernels and copies took the device's time."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuopt.profiling.trace import DeviceWork

__all__ = ["KernelRow", "kernel_rows"]


@dataclass
class KernelRow:
    """All runs of a kernel, or all copies of a kind, in the whole window.

    Attributes:
        name: As CUDA calls it.
        calls: How often it ran.
        device_ms: How long, together.
        bytes: That were copied or filled; None for a kernel.
    """

    name: str
    calls: int = 0
    device_ms: float = 0.0
    bytes: int | None = None

    @property
    def gib_per_second(self) -> float | None:
        """Speed of a copy."""
        if self.bytes is None or not self.device_ms:
            return None
        return self.bytes / 2**30 / (self.device_ms / 1000)


def kernel_rows(work: Sequence[DeviceWork]) -> list[KernelRow]:
    """Sum up work by its name, what took longest first."""
    rows: dict[str, KernelRow] = {}
    for done in work:
        row = rows.setdefault(done.name, KernelRow(done.name))
        row.calls += 1
        row.device_ms += (done.end_us - done.start_us) / 1000
        if done.bytes is not None:
            row.bytes = (row.bytes or 0) + done.bytes
    return sorted(rows.values(), key=lambda row: -row.device_ms)
