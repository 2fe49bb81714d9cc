"""What running a few real steps of one batch size has shown."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ProbeResult", "most_live_bytes"]

# Share of the device that the tensors of a step may take, however small the headroom. On emulated
# cards of 6 to 24 GiB, networks failed from where their predicted tensors took 98 to 102 % of it.
_MOST_LIVE = 0.95


@dataclass(frozen=True)
class ProbeResult:
    """One probe of the device.

    Attributes:
        samples: Samples of the batch.
        peak_bytes: Most bytes that torch's allocator needed of the device; 0 when the probe ran
            out of memory, because nothing is known then.
        resident_bytes: What stayed allocated between the steps: weights, gradients, the
            optimizer's state, averages. 0 when unknown.
        capacity_bytes: What the allocator could have had on the device after the probe; other
            processes may have changed it since the search began. None when unknown.
        seconds_per_step: Mean of the steps after the first; None when no step was timed.
        ran_out_of_memory: Whether the probe failed for want of memory.
        thrashed: Whether the allocator had to give back its cache in both of the last two steps;
            the search keeps it only where that made the step slow.
        live_bytes: Most bytes of tensors: the peak without the pieces between them, of which the
            allocator makes do with fewer where memory is short. 0 when unknown.
    """

    samples: int
    peak_bytes: int = 0
    resident_bytes: int = 0
    capacity_bytes: int | None = None
    seconds_per_step: float | None = None
    ran_out_of_memory: bool = False
    thrashed: bool = False
    live_bytes: int = 0

    def fits(self, capacity_bytes: int, headroom_ratio: float) -> bool:
        """Tell whether training with this batch is safe on a device.

        Either the whole peak leaves the headroom free, or the step ran without trouble and its
        tensors leave as much and at least a twentieth.

        Args:
            capacity_bytes: What the allocator could have.
            headroom_ratio: Share of it to keep free.
        """
        if self.ran_out_of_memory or self.thrashed:
            return False
        if self.peak_bytes <= int(capacity_bytes * (1 - headroom_ratio)):
            return True
        return 0 < self.live_bytes <= most_live_bytes(capacity_bytes, headroom_ratio)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def most_live_bytes(capacity_bytes: int, headroom_ratio: float) -> int:
    """Return what the tensors of a measured step may take."""
    return int(capacity_bytes * min(1 - headroom_ratio, _MOST_LIVE))
