"""How diagnoses of leaks, throttling and held memory look in a terminal."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.diagnosis.cleanup import CleanupDiagnosis
from gpuopt.diagnosis.leak import LeakDiagnosis
from gpuopt.diagnosis.throttle import DeviceThrottling, ThrottleDiagnosis, meaning
from gpuopt.measure import duration_text
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table

__all__ = ["cleanup_table", "leak_table", "throttle_table"]

_MIB = 2**20
_NOT_KNOWN = "n/a"


def leak_table(title: str, diagnosis: LeakDiagnosis) -> RenderableType:
    """Lay out a diagnosis of memory.

    Args:
        title: What was trained.
        diagnosis: What was found.
    """
    series = diagnosis.series.settled()
    table = new_table("Memory before a step, after the warm-up")
    table.add_column("", no_wrap=True)
    for heading in ("first MiB", "last MiB", "least", "most"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = {
        "tensors": series.tensors_bytes,
        "reserved": series.reserved_bytes,
        "process": series.host_bytes,
        "loader": series.loader_bytes if any(series.loader_bytes) else [],
    }
    for name, values in rows.items():
        if values:
            shown = (values[0], values[-1], min(values), max(values))
            table.add_row(name, *(f"{value / _MIB:.1f}" for value in shown))
    head = _head(diagnosis.verdict, title)
    return Group(*head, table, *_lines(diagnosis.lines()))


def throttle_table(diagnosis: ThrottleDiagnosis) -> RenderableType:
    """Lay out what held clocks down."""
    return Group(*_head(diagnosis.verdict), *map(_throttling_table, diagnosis.devices))


def cleanup_table(diagnosis: CleanupDiagnosis) -> RenderableType:
    """Lay out who holds memory."""
    table = new_table("GPU memory")
    table.add_column("GPU", no_wrap=True)
    for heading in ("used MiB", "of", "own cache", "freed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for device in diagnosis.devices:
        sizes = (device.used_bytes, device.total_bytes, device.own_bytes, device.freed_bytes)
        shown = (_NOT_KNOWN if size is None else f"{size / _MIB:.0f}" for size in sizes)
        table.add_row(f"{device.index} {plain_text(device.name or _NOT_KNOWN)}", *shown)
    tables = [table] if diagnosis.devices else []
    return Group(*_head(diagnosis.verdict), *tables, *_lines(diagnosis.lines()))


def _throttling_table(device: DeviceThrottling) -> Table:
    name = plain_text(device.name or _NOT_KNOWN)
    table = new_table(f"GPU {device.index} {name}, watched for {duration_text(device.watched_s)}")
    lost, clock, limit = device.lost_clock, device.clock_mhz, device.limit_mhz
    busy = _NOT_KNOWN if device.busy_share is None else f"{device.busy_share:.0%}"
    parts = [f"busy in {busy} of the looks"]
    if lost is not None:
        parts.append(f"clock {clock:.0f} of {limit} MHz when busy: {lost:.0%} lost")
    if device.warmest_c is not None:
        parts.append(f"up to {device.warmest_c:.0f} C")
    if device.power_w is not None and device.power_limit_w is not None:
        parts.append(f"{device.power_w:.0f} of {device.power_limit_w:.0f} W")
    table.caption = Text("; ".join(parts), style="dim")
    table.caption_justify = "left"
    table.add_column("held down by", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("what it means")
    for reason, seconds in device.seconds.items():
        is_normal, words = meaning(reason)
        share = seconds / device.watched_s if device.watched_s else 0.0
        style = "" if is_normal else "yellow"
        table.add_row(reason, f"{seconds:.1f}", f"{share:.0%}", Text(words, style=style))
    return table


def _head(verdict: str, title: str = "") -> list[RenderableType]:
    head: list[RenderableType] = [Text(plain_text(verdict), style="bold")]
    return [*head, Text(plain_text(title), style="dim")] if title else head


def _lines(lines: Iterable[str]) -> list[Text]:
    return [Text(plain_text(line)) for line in lines]
