"""Words and tables that the reports about a device share."""

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.checks.pitfall import Pitfall
from gpuopt.measure import Interval
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table

__all__ = ["NOT_AVAILABLE", "facts_table", "gib", "or_na", "pitfall_table", "rate_text"]

NOT_AVAILABLE = "n/a"


def or_na(value: object, unit: str = "") -> str:
    """Word a fact; `n/a` for None, never zero."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{shown} {unit}".strip()


def gib(size_bytes: int | None) -> str:
    """Word a size in GiB."""
    return NOT_AVAILABLE if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"


def rate_text(rate: Interval | None) -> str:
    """Word samples a second with their range."""
    if rate is None:
        return NOT_AVAILABLE
    return f"{rate.value:.3g}/s ({rate.low:.3g} to {rate.high:.3g})"


def facts_table(title: str, rows: Iterable[Sequence[str]], headings: Sequence[str]) -> Table:
    """Lay out plain words; the first column names what the others are about."""
    table = new_table(title)
    table.show_header = any(headings)
    for number, heading in enumerate(headings):
        table.add_column(
            heading, style="bold" if number == 0 else "", no_wrap=number == 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(plain_text(cell)) for cell in row))
    return table


def pitfall_table(pitfalls: Sequence[Pitfall]) -> RenderableType:
    """Lay out pitfalls, each with what to do; say so when there are none."""
    if not pitfalls:
        return Text("Pitfalls: none seen\n", style="green")
    rows = [(p.name, p.found, p.remedy) for p in pitfalls]
    return facts_table("Pitfalls", rows, ("", "seen", "what to do"))
