"""Where the host waited for the device."""

from collections import defaultdict
from dataclasses import dataclass

from gpuopt.profiling.trace import HostCall, Trace

__all__ = ["WaitRow", "wait_rows", "waits"]

_WAITS = {
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cudaStreamSynchronize",
    "cuCtxSynchronize",
    "cuEventSynchronize",
    "cuStreamSynchronize",
}


@dataclass
class WaitRow:
    """All waits of one kind in one operator, in the whole window.

    Attributes:
        name: The call of CUDA.
        operator: That made it; nothing when no operator did.
        calls: How often.
        host_ms: How long the host waited.
    """

    name: str
    operator: str
    calls: int = 0
    host_ms: float = 0.0


def waits(trace: Trace) -> list[HostCall]:
    """Return the calls that wait for the device, in their order, without the profiler's own."""
    own = [span for span in trace.phases if span.name == "profiler"]
    found, place = [], 0
    for call in trace.calls:
        if call.name not in _WAITS or call.start_us < trace.start_us:
            continue
        while place < len(own) and own[place].end_us <= call.start_us:
            place += 1
        if place == len(own) or call.start_us < own[place].start_us:
            found.append(call)
    return [call for call in found if call.start_us < trace.end_us]


def wait_rows(trace: Trace) -> list[WaitRow]:
    """Sum up the waits, the longest first."""
    names = {span.link: span.name for span in trace.operators if span.link is not None}
    rows: defaultdict[tuple[str, str], WaitRow] = defaultdict(lambda: WaitRow("", ""))
    for call in waits(trace):
        operator = names.get(call.link, "") if call.link is not None else ""
        row = rows[call.name, operator]
        row.name, row.operator = call.name, operator
        row.calls += 1
        row.host_ms += (call.end_us - call.start_us) / 1000
    return sorted(rows.values(), key=lambda row: -row.host_ms)
