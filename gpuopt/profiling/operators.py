"""Which operators took the host's and the device's time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gpuopt.profiling.calls import Call

__all__ = ["OperatorRow", "operator_rows", "site_rows"]

_NO_SITE = "outside of any function"


@dataclass
class OperatorRow:
    """All calls of an operator, in the whole window.

    Attributes:
        name: As PyTorch calls it; or the function of Python that called operators.
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


def operator_rows(calls: Iterable[Call], *, by_shape: bool = False) -> list[OperatorRow]:
    """Sum up the operators, the one that took most first.

    That is the device's time where there is one, else the host's.

    Args:
        calls: Of `operator_calls`.
        by_shape: A row for each shape of the inputs.
    """
    return _summed(calls, lambda call: (call.span.name, call.span.shapes if by_shape else ""))


def site_rows(calls: Iterable[Call]) -> list[OperatorRow]:
    """Sum up the operators by the function of Python, outside of PyTorch, that called them.

    Nothing when these were not recorded. On a CUDA device the backward pass has none.
    """
    rows = _summed(calls, lambda call: (call.site or _NO_SITE, ""))
    return [] if all(row.name == _NO_SITE for row in rows) else rows


def _summed(calls: Iterable[Call], key_of: Callable[[Call], tuple[str, str]]) -> list[OperatorRow]:
    rows: dict[tuple[str, str], OperatorRow] = {}
    for call in calls:
        key = key_of(call)
        row = rows.get(key)
        if row is None:
            row = rows[key] = OperatorRow(*key)
        row.calls += call.is_outermost
        row.self_host_ms += call.self_us / 1000
        row.total_host_ms += (call.span.end_us - call.span.start_us) * call.is_outermost / 1000
        row.self_device_ms += call.device_us / 1000
        row.self_bytes += call.bytes
    return sorted(rows.values(), key=lambda row: (-row.self_device_ms, -row.self_host_ms))
