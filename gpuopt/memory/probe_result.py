"""What running a few real steps of one batch size has shown."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ProbeResult"]


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
        thrashed: Whether the allocator had to give back its cache in both of the last two steps,
            which is slow.
    """

    samples: int
    peak_bytes: int = 0
    resident_bytes: int = 0
    capacity_bytes: int | None = None
    seconds_per_step: float | None = None
    ran_out_of_memory: bool = False
    thrashed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
