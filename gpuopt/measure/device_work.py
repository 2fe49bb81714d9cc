"""What a device did during some steps, from a short trace: work, and a host that waited for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["DeviceWork", "TraceEvent", "device_work"]

_WAITS = ("Synchronize",)  # cudaStreamSynchronize, cudaDeviceSynchronize, cudaEventSynchronize
_QUEUES = ("Launch", "Memcpy", "Memset")


class TraceEvent(NamedTuple):
    """A stretch of a trace.

    Attributes:
        name: Of the kernel, or of the call of CUDA's library.
        is_on_device: A kernel, copy or fill of the device; else a call of the host.
        began_us: Start on the trace's clock.
        ended_us: End.
    """

    name: str
    is_on_device: bool
    began_us: float
    ended_us: float


@dataclass(frozen=True)
class DeviceWork:
    """Work of a device per optimizer step.

    Attributes:
        busy_ms: Time in which it did something.
        blocked_ms: Time for which the host waited for it.
        waits: How often the host waited.
        places: Lines of code that made it wait, with the number of times per step.
    """

    busy_ms: float
    blocked_ms: float
    waits: float
    places: Mapping[str, float] = field(default_factory=dict)


def device_work(
    events: Iterable[TraceEvent], steps: int, places: Mapping[str, float] | None = None
) -> DeviceWork:
    """Sum up a trace.

    Args:
        events: In any order.
        steps: Optimizer steps in it.
        places: Lines of code at which the host waited, with the number of times per step.

    Returns:
        Waits after the last call that queued work are left out: they are the end of the trace.
    """
    known = list(events)
    host = [event for event in known if not event.is_on_device]
    queued = [e.began_us for e in host if any(word in e.name for word in _QUEUES)]
    last = max(queued, default=float("inf"))
    waits = [
        event.ended_us - event.began_us
        for event in host
        if any(word in event.name for word in _WAITS) and event.began_us <= last
    ]
    busy_us = _covered([(e.began_us, e.ended_us) for e in known if e.is_on_device])
    return DeviceWork(
        busy_ms=busy_us / 1000 / steps,
        blocked_ms=sum(waits) / 1000 / steps,
        waits=len(waits) / steps,
        places=dict(places or {}),
    )


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union: kernels of several streams run at the same time."""
    total, end = 0.0, float("-inf")
    for began, ended in sorted(spans):
        if ended > end:
            total += ended - max(began, end)
            end = ended
    return total
