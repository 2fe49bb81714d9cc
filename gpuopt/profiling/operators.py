"""Which operators took the host's and the device's time."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gpuopt.profiling.trace import Span, Trace

__all__ = ["OperatorRow", "operator_rows", "site_rows"]


@dataclass
class OperatorRow:
    """All calls of an operator, in the whole window.

    Attributes:
        name: As PyTorch calls it.
        shapes: Of its inputs, or nothing.
        calls: How often it was called, without those from inside of itself.
        self_host_ms: Host time without the operators that it called.
        total_host_ms: Host time with them.
        self_device_ms: Time of the kernels and copies that it started itself.
        self_bytes: Memory that it took and did not give back, itself.
    """

    name: str
    shapes: str = ""
    calls: int = 0
    self_host_ms: float = 0.0
    total_host_ms: float = 0.0
    self_device_ms: float = 0.0
    self_bytes: int = 0


@dataclass(frozen=True)
class _Call:
    """One call of an operator, when it is over."""

    span: Span
    self_us: float
    is_outermost: bool
    bytes: int
    site: str


def operator_rows(trace: Trace, *, by_shape: bool = False) -> list[OperatorRow]:
    """Sum up the operators, the one that took most first.

    That is the device's time where there is one, else the host's.

    Args:
        trace: What was recorded.
        by_shape: A row for each shape of the inputs.
    """
    device_us = _device_us(trace)
    rows: dict[tuple[str, str], OperatorRow] = {}
    for call in _calls(trace):
        key = (call.span.name, call.span.shapes if by_shape else "")
        row = rows.setdefault(key, OperatorRow(*key))
        row.calls += call.is_outermost
        row.self_host_ms += call.self_us / 1000
        row.total_host_ms += (call.span.end_us - call.span.start_us) * call.is_outermost / 1000
        row.self_bytes += call.bytes
        if call.span.link is not None:
            row.self_device_ms += device_us.pop(call.span.link, 0.0) / 1000
    return sorted(rows.values(), key=lambda row: (-row.self_device_ms, -row.self_host_ms))


def site_rows(trace: Trace) -> list[OperatorRow]:
    """Sum up the operators by the function of Python, outside of PyTorch, that called them.

    Nothing when these were not recorded. On a CUDA device the backward pass has none.
    """
    if not trace.functions:
        return []
    device_us = _device_us(trace)
    rows: defaultdict[str, OperatorRow] = defaultdict(lambda: OperatorRow(""))
    for call in _calls(trace):
        row = rows[call.site]
        row.name = call.site or "outside of any function"
        row.calls += 1
        row.self_host_ms += call.self_us / 1000
        if call.span.link is not None:
            row.self_device_ms += device_us.pop(call.span.link, 0.0) / 1000
    return sorted(rows.values(), key=lambda row: (-row.self_device_ms, -row.self_host_ms))


def _device_us(trace: Trace) -> dict[int, float]:
    """Sum up the device's work by the operator that started it."""
    sums: defaultdict[int, float] = defaultdict(float)
    for work in (*trace.kernels, *trace.copies):
        if work.link is not None:
            sums[work.link] += work.end_us - work.start_us
    return sums


def _calls(trace: Trace) -> Iterator[_Call]:
    """Walk each thread's operators once, inner ones before the outer ones that called them."""
    events: list[tuple[Any, float, float, int, Any]] = []
    start, end = trace.start_us, trace.end_us
    for kind, spans in ((0, trace.functions), (1, trace.operators)):
        events += [
            (str(s.thread), s.start_us, -s.end_us, kind, s)
            for s in spans
            if s.start_us < end and s.end_us > start
        ]
    events += [(str(a.thread), a.at_us, 0.0, 2, a) for a in trace.allocations]
    events.sort(key=lambda event: event[:4])
    for _, of_thread in groupby(events, key=lambda event: event[0]):
        yield from _calls_of_thread(of_thread)


class _Open:
    """A span that has begun and not ended."""

    def __init__(self, span: Span, site: str, *, is_operator: bool, is_outermost: bool) -> None:
        self.span = span
        self.site = site
        self.is_operator = is_operator
        self.is_outermost = is_outermost
        self.inner_us = 0.0
        self.bytes = 0


def _calls_of_thread(events: Iterable[tuple[Any, float, float, int, Any]]) -> Iterator[_Call]:
    open_spans: list[_Open] = []
    open_operators: list[_Open] = []
    names: Counter[str] = Counter()

    def close_until(time_us: float) -> Iterator[_Call]:
        while open_spans and open_spans[-1].span.end_us <= time_us:
            done = open_spans.pop()
            if not done.is_operator:
                continue
            open_operators.pop()
            names[done.span.name] -= 1
            duration = done.span.end_us - done.span.start_us
            if open_operators:
                open_operators[-1].inner_us += duration
            own = max(0.0, duration - done.inner_us)
            yield _Call(done.span, own, done.is_outermost, done.bytes, done.site)

    for _, at, _, kind, event in events:
        yield from close_until(at)
        if kind == 2:
            if open_operators:
                open_operators[-1].bytes += event.bytes
            continue
        site = open_spans[-1].site if open_spans else ""
        if kind == 0:
            site = event.name if _is_users(event.name) else site
        opened = _Open(
            event, site, is_operator=kind == 1, is_outermost=kind == 1 and not names[event.name]
        )
        open_spans.append(opened)
        if kind == 1:
            open_operators.append(opened)
            names[event.name] += 1
    yield from close_until(float("inf"))


# What calls a user's functions, or is called by them, and is not what one would change.
_NOT_USERS = ("torch/", "lightning/", "nn.Module: ", "<built-in", "<string>", "contextlib.py")


def _is_users(line: str) -> bool:
    return not any(part in line for part in _NOT_USERS)
