"""What a step's time was spent on: parts that add up to the whole."""

from collections import defaultdict
from dataclasses import dataclass

from gpuopt.profiling.intervals import Interval, gaps, length_us, merged, overlaps_us
from gpuopt.profiling.synchronisations import waits
from gpuopt.profiling.trace import DeviceWork, Trace
from gpuopt.steps.phase_names import PHASES

__all__ = ["PhaseTime", "Share", "phase_times", "step_shares"]


@dataclass(frozen=True)
class Share:
    """A part of the time of the steps.

    Attributes:
        name: Short, for tables.
        ms: Per step.
        ratio: Of the step.
        meaning: What it is, in a sentence without a full stop.
    """

    name: str
    ms: float
    ratio: float
    meaning: str


@dataclass(frozen=True)
class PhaseTime:
    """A phase of the step.

    Attributes:
        name: `data`, `forward`, `backward` or `optimizer`.
        host_ms: Per step, of the host.
        device_ms: Per step, of the device's work that was started in it; None without a device.
    """

    name: str
    host_ms: float
    device_ms: float | None


_MEANINGS = {
    "kernels": "the device computes",
    "copies": "the device copies or fills memory and computes nothing",
    "launch gaps": "the device has nothing to do: the host has not launched the next kernel yet",
    "synchronisations": "the device has nothing to do: the host waited for it to become empty",
    "data": "the next batch: the loader, the copy to the device, what runs between two batches",
    "between kernels": "the next kernel was launched in time and starts",
    "operators": "operators of PyTorch compute",
    "host code": "Python and the framework, outside of operators",
}


def step_shares(trace: Trace) -> list[Share]:
    """Divide the time of the steps; the shares add up to 1, the largest comes first.

    With a device this is the device's time: computing, copying, or idle for a reason. Without one
    it is the host's: operators, code outside of them, and the wait for data.
    """
    parts = _device_parts(trace) if trace.has_device else _host_parts(trace)
    whole = trace.end_us - trace.start_us
    steps = len(trace.steps)
    shares = [
        Share(name, part / steps / 1000, part / whole, _MEANINGS[name])
        for name, part in parts.items()
    ]
    return sorted(shares, key=lambda share: -share.ms)


def _device_parts(trace: Trace) -> dict[str, float]:
    window = trace.start_us, trace.end_us
    computing = merged(trace.kernels, *window)
    work = sorted([*trace.kernels, *trace.copies], key=lambda done: done[:2])
    busy = merged(work, *window)
    parts: defaultdict[str, float] = defaultdict(float)
    parts["kernels"] = length_us(computing)
    parts["copies"] = length_us(busy) - parts["kernels"]
    idle = gaps(busy, *window)
    data = merged([p for p in trace.phases if p.name == "data"], *window)
    waiting = merged(waits(trace), *window)
    launched = {call.correlation: call.end_us for call in trace.calls}
    causes = zip(
        idle,
        overlaps_us(idle, data),
        _began_waiting(idle, waiting),
        _next_work(idle, work),
        strict=True,
    )
    for (start, end), in_data, waited, following in causes:
        launch = launched.get(following.correlation) if following else None
        if launch is not None and launch <= start:
            parts["between kernels"] += end - start
        else:
            parts["data"] += in_data
            parts["synchronisations" if waited else "launch gaps"] += end - start - in_data
    return parts


def _next_work(idle: list[Interval], work: list[DeviceWork]) -> list[DeviceWork | None]:
    """Return what ends each gap; None for the one at the end of the window."""
    found: list[DeviceWork | None] = []
    place = 0
    for _, end in idle:
        while place < len(work) and work[place].start_us < end:
            place += 1
        found.append(work[place] if place < len(work) else None)
    return found


def _began_waiting(idle: list[Interval], waiting: list[Interval]) -> list[bool]:
    """Tell for each gap whether the host waited for the device when it became idle."""
    found, place = [], 0
    for start, _ in idle:
        while place < len(waiting) and waiting[place][1] < start:
            place += 1
        found.append(place < len(waiting) and waiting[place][0] <= start)
    return found


def _host_parts(trace: Trace) -> dict[str, float]:
    window = trace.start_us, trace.end_us
    computing = merged(trace.operators, *window)
    data = merged([p for p in trace.phases if p.name == "data"], *window)
    in_data = length_us(data)
    operators = length_us(computing) - sum(overlaps_us(data, computing))
    return {
        "operators": operators,
        "data": in_data,
        "host code": trace.end_us - trace.start_us - in_data - operators,
    }


def phase_times(trace: Trace) -> list[PhaseTime]:
    """Return the phases in their order; nothing when they were not marked."""
    if not trace.phases:
        return []
    host: defaultdict[str, float] = defaultdict(float)
    for span in trace.phases:
        host[span.name] += max(
            0.0, min(span.end_us, trace.end_us) - max(span.start_us, trace.start_us)
        )
    device = _device_phases(trace)
    scale = 1000 * len(trace.steps)
    return [
        PhaseTime(name, host[name] / scale, device[name] / scale if trace.has_device else None)
        for name in PHASES
    ]


def _device_phases(trace: Trace) -> defaultdict[str, float]:
    """Add up the device's work by the phase in which the host started it."""
    started: defaultdict[int | None, float] = defaultdict(float)
    for work in (*trace.kernels, *trace.copies):  # a graph of CUDA starts many by one call
        started[work.correlation] += work.end_us - work.start_us
    sums: defaultdict[str, float] = defaultdict(float)
    place = 0
    for call in trace.calls:
        while place < len(trace.phases) and trace.phases[place].end_us <= call.start_us:
            place += 1
        if place == len(trace.phases):
            break
        if trace.phases[place].start_us <= call.start_us:
            sums[trace.phases[place].name] += started.pop(call.correlation, 0.0)
    return sums
