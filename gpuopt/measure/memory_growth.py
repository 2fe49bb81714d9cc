"""Memory of a training over time: what leaks, what is only fragmented, what the host holds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gpuopt.measure.trend import Trend, trend_of

__all__ = ["Growth", "MemorySeries", "growing"]

Kind = Literal["leak", "fragmentation", "host", "loader"]

# Of a series at its beginning: caches fill, kernels are chosen, workers start.
_WARM_UP = 0.25
_APART_RATIO = 0.25


@dataclass
class MemorySeries:
    """Readings at the same moment of each step.

    Attributes:
        time_s: Since the first.
        tensors_bytes: Of all tensors that are alive; on a CUDA device what its allocator has given
            out. The batch is left out, which is not of one size.
        reserved_bytes: What the CUDA allocator holds; empty on a CPU.
        host_bytes: Resident memory of the process.
        loader_bytes: Memory of the loader's processes; empty where that cannot be read.
        steps: Optimizer steps done.
    """

    time_s: list[float] = field(default_factory=list)
    tensors_bytes: list[float] = field(default_factory=list)
    reserved_bytes: list[float] = field(default_factory=list)
    host_bytes: list[float] = field(default_factory=list)
    loader_bytes: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def settled(self) -> "MemorySeries":
        """Leave the warm-up out."""
        first = int(len(self.time_s) * _WARM_UP)
        return MemorySeries(**{name: values[first:] for name, values in vars(self).items()})

    def thin_out(self) -> None:
        """Drop every second reading."""
        for values in vars(self).values():
            del values[1::2]

    @property
    def steps_per_s(self) -> float:
        """Optimizer steps per second; 0 with less than two readings."""
        if len(self.time_s) < 2 or self.time_s[-1] <= self.time_s[0]:
            return 0.0
        return (self.steps[-1] - self.steps[0]) / (self.time_s[-1] - self.time_s[0])


@dataclass(frozen=True)
class Growth:
    """Memory that grows.

    Attributes:
        kind: `leak` (tensors), `fragmentation` (reserved, but not given out), `host` (the
            process, without the tensors in it) or `loader` (the loader's processes).
        bytes_per_s: How fast.
        low_bytes_per_s: Lower bound of the 99 % interval.
        p: Chance that it does not grow at all.
        bytes_per_step: The same by optimizer step.
    """

    kind: Kind
    bytes_per_s: float
    low_bytes_per_s: float
    p: float
    bytes_per_step: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def growing(series: MemorySeries, duration_s: float, threshold_bytes: float) -> list[Growth]:
    """Find what grows by more than a threshold.

    Args:
        series: Of at least a few steps; its warm-up is left out.
        duration_s: The time within which the growth counts.
        threshold_bytes: The growth within it that is tolerated.

    Returns:
        Nothing for a training whose memory only comes and goes.
    """
    series = series.settled()
    found = []
    tensors = trend_of(series.time_s, series.tensors_bytes)
    if _counts(tensors, duration_s, threshold_bytes):
        found.append(_growth("leak", tensors, series))
    if series.reserved_bytes:
        pairs = zip(series.reserved_bytes, series.tensors_bytes, strict=True)
        gaps = trend_of(series.time_s, [reserved - given for reserved, given in pairs])
        reserved = trend_of(series.time_s, series.reserved_bytes)
        # With less given out the gap grows as well, and nobody misses memory.
        if _counts(gaps, duration_s, threshold_bytes) and reserved.grows:
            found.append(_growth("fragmentation", gaps, series))
        host_bytes: Sequence[float] = series.host_bytes
    else:  # tensors are the host's: what they grow by is told already
        pairs = zip(series.host_bytes, series.tensors_bytes, strict=True)
        host_bytes = [host - tensors for host, tensors in pairs]
    host = trend_of(series.time_s, host_bytes)
    # What is around each tensor that leaks is no trouble of its own.
    is_apart = not found or host.slope > _APART_RATIO * found[0].bytes_per_s
    if is_apart and _counts(host, duration_s, threshold_bytes):
        found.append(_growth("host", host, series))
    loader = trend_of(series.time_s, series.loader_bytes) if series.loader_bytes else Trend()
    if _counts(loader, duration_s, threshold_bytes):
        found.append(_growth("loader", loader, series))
    return found


def _counts(trend: Trend, duration_s: float, threshold_bytes: float) -> bool:
    return trend.grows and trend.slope * duration_s >= threshold_bytes


def _growth(kind: Kind, trend: Trend, series: MemorySeries) -> Growth:
    per_step = trend.slope / series.steps_per_s if series.steps_per_s else 0.0
    return Growth(kind, trend.slope, trend.low, trend.p, per_step)
