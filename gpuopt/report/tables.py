"""Terminal tables: what a run is going to do, and what came out.

Every cell is a `Text`, so that brackets in names are not read as markup, and passes through
`plain_text`, so that they cannot send escape codes to the terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from gpuopt.measure import Interval
from gpuopt.report.names import plain_text

__all__ = [
    "FoldRow",
    "PlanRow",
    "ResultRow",
    "difference_text",
    "folds_table",
    "interval_text",
    "new_table",
    "plan_table",
    "results_table",
]

_EVIDENCE_STYLES = {"measured": "green", "predicted": "yellow", "table": "cyan", "given": "dim"}


@dataclass(frozen=True)
class PlanRow:
    """One line of a plan.

    Attributes:
        label: What is decided.
        value: How.
        evidence: `measured`, `predicted`, `table`, `given`, or empty.
    """

    label: str
    value: str
    evidence: str = ""


@dataclass(frozen=True)
class ResultRow:
    """One metric with and without test-time augmentation.

    Attributes:
        metric: Its name.
        single: Without.
        merged: With; None when there was none.
        difference: With minus without, from paired resamples.
    """

    metric: str
    single: Interval
    merged: Interval | None = None
    difference: Interval | None = None


@dataclass(frozen=True)
class FoldRow:
    """Scores of one fold, or of several together.

    Attributes:
        name: The fold's number, or words.
        images: Number of images that were scored.
        score: Macro-F1 of the images that the model was not trained on.
    """

    name: str
    images: int
    score: Interval


def plan_table(rows: Sequence[PlanRow], title: str = "Plan") -> Table:
    """Lay out a plan, with where each value comes from."""
    table = new_table(title)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("", overflow="fold")
    table.add_column("", no_wrap=True)
    table.show_header = False
    for row in rows:
        table.add_row(
            Text(plain_text(row.label)),
            Text(plain_text(row.value)),
            Text(plain_text(row.evidence), style=_EVIDENCE_STYLES.get(row.evidence, "")),
        )
    return table


def results_table(
    rows: Sequence[ResultRow], *, title: str = "Results", policy: str = "", level: float = 0.95
) -> Table:
    """Lay out metrics; columns about test-time augmentation appear when a row has them.

    Args:
        rows: The metrics.
        title: Above the table, such as the data set's name.
        policy: Name of the test-time augmentation.
        level: Confidence level of the intervals, for the caption.
    """
    has_merged = any(row.merged is not None for row in rows)
    table = new_table(title)
    table.caption = Text(
        f"{level:.0%} bootstrap intervals"
        + ("; difference on the same resampled images" if has_merged else ""),
        style="dim",
    )
    table.caption_justify = "left"
    table.add_column("metric", style="bold", no_wrap=True)
    table.add_column("without TTA" if has_merged else "value", justify="right")
    if has_merged:
        table.add_column(Text(plain_text(f"with TTA {policy}").strip()), justify="right")
        table.add_column("difference", justify="right")
    for row in rows:
        cells = [Text(plain_text(row.metric)), interval_text(row.single)]
        if has_merged:
            cells += [interval_text(row.merged), difference_text(row.difference)]
        table.add_row(*cells)
    return table


def folds_table(rows: Sequence[FoldRow], *, title: str, caption: str) -> Table:
    """Lay out the scores of folds.

    Args:
        rows: One per fold, then those of all folds.
        title: Above the table, such as the data set's name.
        caption: Below it: mean and standard deviation, folds that are missing.
    """
    table = new_table(title)
    table.caption = Text(plain_text(caption), style="dim")
    table.caption_justify = "left"
    table.add_column("fold", style="bold", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("macro-F1", justify="right")
    for row in rows:
        table.add_row(Text(plain_text(row.name)), str(row.images), interval_text(row.score))
    return table


def new_table(title: str, *, is_dense: bool = False) -> Table:
    """Return an empty table in the look of all tables.

    Args:
        title: Above it.
        is_dense: Moves the columns together, for many of them in a terminal of 80 characters.
    """
    return Table(
        title=Text(plain_text(title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0) if is_dense else (0, 1),
        pad_edge=False,
    )


def interval_text(interval: Interval | None) -> Text:
    """Word a figure with its interval; nothing for None."""
    if interval is None:
        return Text("")
    return Text.assemble(
        (f"{interval.value:.3f}", "bold"), (f"  {interval.low:.3f} to {interval.high:.3f}", "dim")
    )


def difference_text(interval: Interval | None, *, in_words: bool = True) -> Text:
    """Word a difference; only one that excludes zero is coloured, the other is no finding.

    Args:
        interval: Nothing is worded for None.
        in_words: Also say in words what is no finding.
    """
    if interval is None:
        return Text("")
    style = "bold"
    if interval.excludes_zero:
        style = "bold green" if interval.value > 0 else "bold red"
    text = Text.assemble(
        (f"{interval.value:+.3f}", style), (f"  {interval.low:+.3f} to {interval.high:+.3f}", "dim")
    )
    if in_words and not interval.excludes_zero:
        text.append("  (may be 0)", style="dim")
    return text
