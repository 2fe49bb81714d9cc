"""Each call of an operator with its own part of time and memory, in one walk over the events."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from gpuopt.profiling.trace import Span, Trace

__all__ = ["Call", "operator_calls"]

_FUNCTION, _OPERATOR, _MEMORY = range(3)
_Event = tuple[str, float, float, int, Any]


class Call(NamedTuple):
    """A call that is over.

    Attributes:
        span: The operator.
        self_us: Host time without the operators that it called.
        device_us: Time of the kernels and copies that it started itself.
        is_outermost: Whether it was not called from inside of an operator of its name.
        bytes: Memory that it took less what it gave back, itself.
        site: The function of Python, outside of PyTorch, that called it; nothing when unknown.
    """

    span: Span
    self_us: float
    device_us: float
    is_outermost: bool
    bytes: int
    site: str


def operator_calls(trace: Trace) -> list[Call]:
    """List the calls within the steps, inner ones before the outer ones that called them."""
    start, end = trace.start_us, trace.end_us
    events: list[_Event] = []
    for kind, spans in ((_FUNCTION, trace.functions), (_OPERATOR, trace.operators)):
        events += [
            (str(s.thread), s.start_us, -s.end_us, kind, s)
            for s in spans
            if s.start_us < end and s.end_us > start
        ]
    events += [(str(a.thread), a.at_us, 0.0, _MEMORY, a) for a in trace.allocations]
    events.sort(key=lambda event: event[:4])
    device_us = _device_us(trace)
    calls: list[Call] = []
    for _, of_thread in groupby(events, key=lambda event: event[0]):
        calls += _calls_of_thread(of_thread, device_us)
    return calls


def _device_us(trace: Trace) -> dict[int | None, float]:
    """Sum up the device's work by the operator that started it."""
    sums: defaultdict[int | None, float] = defaultdict(float)
    for work in (*trace.kernels, *trace.copies):
        sums[work.link] += work.end_us - work.start_us
    sums.pop(None, None)
    return sums


class _Open:
    """A span that has begun and not ended."""

    def __init__(self, span: Span, site: str, *, is_operator: bool, is_outermost: bool) -> None:
        self.span = span
        self.site = site
        self.is_operator = is_operator
        self.is_outermost = is_outermost
        self.inner_us = 0.0
        self.bytes = 0


def _calls_of_thread(
    events: Iterable[_Event], device_us: dict[int | None, float]
) -> Iterator[Call]:
    open_spans: list[_Open] = []
    open_operators: list[_Open] = []
    names: Counter[str] = Counter()

    def close_until(time_us: float) -> Iterator[Call]:
        while open_spans and open_spans[-1].span.end_us <= time_us:
            done = open_spans.pop()
            if not done.is_operator:
                continue
            open_operators.pop()
            span = done.span
            names[span.name] -= 1
            if open_operators:
                open_operators[-1].inner_us += span.end_us - span.start_us
            own = max(0.0, span.end_us - span.start_us - done.inner_us)
            started = device_us.pop(span.link, 0.0)
            yield Call(span, own, started, done.is_outermost, done.bytes, done.site)

    for _, at, _, kind, event in events:
        yield from close_until(at)
        if kind == _MEMORY:
            if open_operators:
                open_operators[-1].bytes += event.bytes
            continue
        site = open_spans[-1].site if open_spans else ""
        if kind == _FUNCTION:
            own_site = event.name if _is_users(event.name) else site
            open_spans.append(_Open(event, own_site, is_operator=False, is_outermost=False))
            continue
        opened = _Open(event, site, is_operator=True, is_outermost=not names[event.name])
        open_spans.append(opened)
        open_operators.append(opened)
        names[event.name] += 1
    yield from close_until(float("inf"))


# What calls a user's functions, or is called by them, and is not what one would change.
_NOT_USERS = ("torch/", "lightning/", "nn.Module: ", "<built-in", "<string>", "contextlib.py")


@functools.cache
def _is_users(function: str) -> bool:
    return not any(part in function for part in _NOT_USERS)
