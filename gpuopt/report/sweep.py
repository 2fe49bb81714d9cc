"""The jobs of a sweep beside each other: a CSV, a picture, a table for the terminal."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

from gpuopt.report.figures import (
    FAINT,
    HEAD_INCH,
    INK,
    MUTED,
    RIGHT,
    WRONG,
    new_figure,
    write_head,
)
from gpuopt.report.fonts import font
from gpuopt.report.names import drawable, plain_text, shortened
from gpuopt.report.tables import new_table
from gpuopt.storage import atomic_write

__all__ = ["SweepRow", "sweep_figure", "sweep_table", "write_sweep_csv"]

_STATE_STYLES = {"done": "green", "running": "cyan", "waiting": "dim"}
_BATCHES = ("global_batch_size", "micro_batch_size")
_FIGURES = (*_BATCHES, "samples_per_second", "peak_memory_gib", "duration_s", "f1", "f1_tta")
_ROW_INCH, _WIDTH_INCH, _MOST_LABEL = 0.32, 10.0, 34


@dataclass(frozen=True)
class SweepRow:
    """One job; what is not known is None, never zero.

    Attributes:
        number: From 0.
        varied: The settings that differ between jobs, with this job's values.
        global_batch_size: Samples per optimizer step; text when it was refused.
        micro_batch_size: Samples per device per forward; text when it was refused.
        samples_per_second: Of training.
        peak_memory_gib: Of training, on the device.
        duration_s: Wall time of the whole job, in seconds.
        f1: Macro-F1 without test-time augmentation.
        f1_tta: With it; None when there was none.
        state: `waiting`, `running`, `done`, `refused`, `failed`, `killed` or `stopped`.
        reason: Why it is not done.
    """

    number: int
    varied: dict[str, str] = field(default_factory=dict)
    global_batch_size: int | str | None = None
    micro_batch_size: int | str | None = None
    samples_per_second: float | None = None
    peak_memory_gib: float | None = None
    duration_s: float | None = None
    f1: float | None = None
    f1_tta: float | None = None
    state: str = "waiting"
    reason: str = ""

    @property
    def label(self) -> str:
        """The job for people: `micro_batch_size=8 seed=1`."""
        words = " ".join(f"{key}={value}" for key, value in self.varied.items())
        return words or f"job {self.number}"


def write_sweep_csv(path: Path, rows: Sequence[SweepRow]) -> None:
    """Write one line per job, and a column for every setting that varied.

    Raises:
        OSError: When the folder is missing or cannot be written.
    """
    varied = [key for key in (rows[0].varied if rows else {}) if key not in _BATCHES]
    with atomic_write(path, "w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["job", *varied, *_FIGURES, "state", "reason"])
        for row in rows:
            figures = [_plain_number(getattr(row, name)) for name in _FIGURES]
            settings = [row.varied[key] for key in varied]
            writer.writerow([row.number, *settings, *figures, row.state, row.reason])


def sweep_table(rows: Sequence[SweepRow], title: str = "Sweep") -> Table:
    """Lay out the jobs; columns that no job has a value for are left out."""
    table = new_table(title)
    has_memory = any(row.peak_memory_gib is not None for row in rows)
    has_tta = any(row.f1_tta is not None for row in rows)
    varied = [key for key in (rows[0].varied if rows else {}) if key not in _BATCHES]
    table.add_column("job", justify="right", no_wrap=True)
    for key in varied:
        table.add_column(Text(plain_text(key)), overflow="fold")
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("samples/s", justify="right", no_wrap=True)
    if has_memory:
        table.add_column("peak GiB", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("F1", justify="right", no_wrap=True)
    if has_tta:
        table.add_column("F1, TTA", justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for row in rows:
        cells = [Text(str(row.number)), *(Text(plain_text(row.varied[key])) for key in varied)]
        cells += [Text(_batch(row)), _number(row.samples_per_second, ".1f")]
        if has_memory:
            cells.append(_number(row.peak_memory_gib, ".2f"))
        cells += [_number(row.duration_s, ".0f", " s"), _number(row.f1, ".3f")]
        if has_tta:
            cells.append(_number(row.f1_tta, ".3f"))
        table.add_row(*cells, _state(row))
    table.caption = Text("batch: micro, global", style="dim")
    table.caption_justify = "left"
    return table


def sweep_figure(rows: Sequence[SweepRow], title: str) -> Figure:
    """Draw the jobs as rows: throughput, memory where it was measured, and F1."""
    panels: list[tuple[str, tuple[str, ...]]] = [("samples per second", ("samples_per_second",))]
    if any(row.peak_memory_gib is not None for row in rows):
        panels.append(("peak memory, GiB", ("peak_memory_gib",)))
    panels.append(("macro-F1", ("f1", "f1_tta")))
    height = HEAD_INCH + 0.9 + _ROW_INCH * max(len(rows), 1)
    figure = new_figure(_WIDTH_INCH, height)
    done = sum(row.state == "done" for row in rows)
    tta = "; F1: filled without, ring with TTA" if any(r.f1_tta is not None for r in rows) else ""
    write_head(figure, title, f"{done} of {len(rows)} jobs done{tta}")
    bottom, top, left = 0.6 / height, 1 - (HEAD_INCH + 0.3) / height, 0.3
    width = (0.98 - left) / len(panels)
    for index, (name, fields) in enumerate(panels):
        axes = figure.add_axes((left + index * width, bottom, width - 0.05, top - bottom))
        _draw_panel(axes, rows, name, fields, is_first=index == 0)
    return figure


def _draw_panel(
    axes: Axes, rows: Sequence[SweepRow], name: str, fields: Sequence[str], *, is_first: bool
) -> None:
    places = range(len(rows))
    for field_name in fields:
        points = [(v, y) for y in places if (v := getattr(rows[y], field_name)) is not None]
        face = "white" if field_name == "f1_tta" else RIGHT
        axes.scatter(
            [value for value, _ in points],
            [y for _, y in points],
            s=42,
            facecolor=face,
            edgecolor=RIGHT,
            linewidth=1.5,
            zorder=3,
        )
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_yticks(list(places))
    axes.set_yticklabels([])
    for y in places if is_first else ():
        is_ended_badly = rows[y].state not in ("done", "running", "waiting")
        text = rows[y].label if rows[y].state == "done" else f"{rows[y].label}  {rows[y].state}"
        axes.annotate(
            shortened(drawable(text), _MOST_LABEL),
            (0, y),
            (-8, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="center",
            color=WRONG if is_ended_badly else INK,
            fontproperties=font(9),
            parse_math=False,
        )
    axes.set_xlabel(name, color=MUTED, fontproperties=font(9))
    axes.tick_params(length=0, colors=MUTED, labelsize=8)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    for spine in axes.spines.values():
        spine.set_visible(False)


def _batch(row: SweepRow) -> str:
    sizes = (row.micro_batch_size, row.global_batch_size)
    return ", ".join("auto" if size is None else str(size) for size in sizes)


def _number(value: float | None, form: str, unit: str = "") -> Text:
    return Text("" if value is None else f"{value:{form}}{unit}")


def _plain_number(value: float | str | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _state(row: SweepRow) -> Text:
    text = Text(row.state, style=_STATE_STYLES.get(row.state, "bold red"))
    return text.append(f": {plain_text(row.reason)}", style="") if row.reason else text
