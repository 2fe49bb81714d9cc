"""A trace of `torch.profiler`, read from its file into what the analysis needs."""

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpuopt.errors import InputError
from gpuopt.steps.phase_names import phase_of

__all__ = ["Allocation", "DeviceWork", "HostCall", "Span", "Trace", "read_trace", "trace_of"]

_STEP = "ProfilerStep#"
# Raised by a file that is cut off, damaged, or something else.
_NO_TRACE = (AttributeError, EOFError, LookupError, OSError, TypeError, ValueError, zlib.error)
_CUDA = 1  # how PyTorch numbers the kind of a device that memory belongs to


class Span(NamedTuple):
    """Something that a thread did; times are microseconds on one clock."""

    start_us: float
    end_us: float
    name: str
    thread: Any = 0
    shapes: str = ""
    link: int | None = None


class HostCall(NamedTuple):
    """A call of CUDA's runtime or driver; `correlation` is shared with the work that it started."""

    start_us: float
    end_us: float
    name: str
    correlation: int | None = None
    link: int | None = None


class DeviceWork(NamedTuple):
    """A kernel, a copy or a filling of memory on the device."""

    start_us: float
    end_us: float
    name: str
    correlation: int | None = None
    link: int | None = None
    bytes: int | None = None


class Allocation(NamedTuple):
    """Memory that was taken (positive) or given back, and what is held after it."""

    at_us: float
    bytes: int
    allocated_bytes: int
    reserved_bytes: int
    thread: Any
    is_device: bool


@dataclass
class Trace:
    """The events of one device and its host, each list in the order of time.

    `link` connects an operator with the calls and the device's work that it caused.

    Attributes:
        steps: Optimizer steps.
        phases: Named by phase: data, forward, backward, optimizer, profiler.
        operators: Of PyTorch, on all threads.
        functions: Of Python, if they were recorded.
        calls: Of CUDA.
        kernels: On the device.
        copies: Copies and fillings of memory on the device.
        allocations: If they were recorded.
    """

    steps: list[Span] = field(default_factory=list)
    phases: list[Span] = field(default_factory=list)
    operators: list[Span] = field(default_factory=list)
    functions: list[Span] = field(default_factory=list)
    calls: list[HostCall] = field(default_factory=list)
    kernels: list[DeviceWork] = field(default_factory=list)
    copies: list[DeviceWork] = field(default_factory=list)
    allocations: list[Allocation] = field(default_factory=list)

    @property
    def start_us(self) -> float:
        """Where the first step begins."""
        return self.steps[0].start_us

    @property
    def end_us(self) -> float:
        """Where the last step ends."""
        return self.steps[-1].end_us

    @property
    def has_device(self) -> bool:
        """Whether a CUDA device was recorded."""
        return bool(self.kernels)


def read_trace(path: Path) -> Trace:
    """Read a trace file, compressed or not.

    Raises:
        InputError: When it cannot be read, or holds no step.
    """
    try:
        data = path.read_bytes()
        content = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        trace = trace_of(content["traceEvents"])
    except _NO_TRACE as error:
        raise InputError(
            f"{path} is no trace of torch.profiler ({type(error).__name__}): record it again"
        ) from error
    if not trace.steps:
        raise InputError(f"{path} holds no step: record at least one with profile.step()")
    return trace


def trace_of(events: Iterable[Mapping[str, Any]]) -> Trace:
    """Sort the events of a Chrome trace by their kind.

    Of several devices only the busiest one's work is kept.

    Args:
        events: `traceEvents` as `torch.profiler` writes them.
    """
    trace = Trace()
    work: dict[Any, tuple[list[DeviceWork], list[DeviceWork]]] = {}
    for event in events:
        kind, arguments = event.get("cat"), event.get("args", {})
        if event.get("ph") == "X":
            _add_span(trace, work, event, kind, arguments)
        elif kind == "cpu_instant_event" and event.get("name") == "[memory]":
            trace.allocations.append(_allocation(event, arguments))
    if work:
        trace.kernels, trace.copies = max(work.values(), key=lambda lists: len(lists[0]))
    for events_of_kind in vars(trace).values():
        events_of_kind.sort(key=lambda event: event[:2])
    return trace


def _add_span(
    trace: Trace,
    work: dict[Any, tuple[list[DeviceWork], list[DeviceWork]]],
    event: Mapping[str, Any],
    kind: str | None,
    arguments: Mapping[str, Any],
) -> None:
    start = float(event["ts"])
    end, name = start + float(event.get("dur", 0)), str(event["name"])
    link, correlation = arguments.get("External id"), arguments.get("correlation")
    if kind == "cpu_op":
        shapes = arguments.get("Input Dims")
        text = json.dumps(shapes) if shapes else ""
        trace.operators.append(Span(start, end, name, event.get("tid"), text, link))
    elif kind == "python_function":
        trace.functions.append(Span(start, end, name, event.get("tid")))
    elif kind == "user_annotation" and name.startswith(_STEP):
        trace.steps.append(Span(start, end, name, event.get("tid")))
    elif kind == "user_annotation" and (phase := phase_of(name)):
        trace.phases.append(Span(start, end, phase, event.get("tid")))
    elif kind in ("cuda_runtime", "cuda_driver"):
        trace.calls.append(HostCall(start, end, name, correlation, link))
    elif kind in ("kernel", "gpu_memcpy", "gpu_memset"):
        kernels, copies = work.setdefault(arguments.get("device"), ([], []))
        done = DeviceWork(start, end, name, correlation, link, arguments.get("bytes"))
        (kernels if kind == "kernel" else copies).append(done)


def _allocation(event: Mapping[str, Any], arguments: Mapping[str, Any]) -> Allocation:
    return Allocation(
        float(event["ts"]),
        int(arguments.get("Bytes", 0)),
        int(arguments.get("Total Allocated", 0)),
        int(arguments.get("Total Reserved", 0)),
        event.get("tid"),
        arguments.get("Device Type") == _CUDA,
    )
