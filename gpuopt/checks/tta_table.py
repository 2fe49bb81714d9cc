"""How `report=tta` looks in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.table import Table
from rich.text import Text

from gpuopt.hardware import Gpu
from gpuopt.measure import Interval
from gpuopt.report.names import plain_text
from gpuopt.report.tables import interval_text, new_table
from gpuopt.tta.time_model import TtaTime

__all__ = ["cost_table", "worth_table"]


class _Row(Protocol):
    """The part of a `CardTime` that is shown."""

    @property
    def preset(self) -> str:
        """What `gpu=` takes."""

    @property
    def gpu(self) -> Gpu:
        """The card."""

    @property
    def time(self) -> TtaTime | None:
        """The parts of the time."""

    @property
    def minutes(self) -> Mapping[str, Interval]:
        """By policy."""


def cost_table(title: str, cards: Sequence[_Row], views: Mapping[str, int]) -> Table:
    """Lay out what policies take on cards.

    Args:
        title: Above the table.
        cards: One row each.
        views: Number of views by policy, one column each.
    """
    table = new_table(title, is_dense=True)
    spread = next((card.time for card in cards if card.time is not None), None)
    range_text = "" if spread is None else f"{spread.low_ratio:.2f} to {spread.high_ratio:.2f}"
    table.caption = Text(
        f"published speeds lie at {range_text} times such a prediction; loading left out, 10 s to "
        "start; chunk: images per forward",
        style="dim",
    )
    table.caption_justify = "left"
    table.add_column("gpu=", no_wrap=True, style="bold")
    for heading in ("chunk", "views/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, count in views.items():
        heading = f"{plain_text(name)}\n{count} view{'' if count == 1 else 's'}"
        table.add_column(Text(heading), justify="right", overflow="fold")
    for card in cards:
        time = card.time
        if time is None:
            table.add_row(Text(plain_text(card.preset)), "", "cannot")
            continue
        table.add_row(
            Text(plain_text(card.preset)),
            str(time.chunk_size),
            f"{1 / time.forward_s:.0f}",
            *(f"{card.minutes[name].value:.3g}" for name in views),
        )
    return table


def worth_table(worth: Mapping[str, Interval], views: Mapping[str, int]) -> Table:
    """Lay out what policies are worth to a run, the same on every card."""
    table = new_table("What they are worth, on any card")
    table.add_column("policy", style="bold", no_wrap=True)
    table.add_column("views", justify="right", no_wrap=True)
    table.add_column("macro-F1", justify="right", no_wrap=True)
    for name, score in worth.items():
        table.add_row(Text(plain_text(name)), str(views[name]), interval_text(score))
    return table
