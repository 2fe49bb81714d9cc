"""Time against macro-F1 of policies of views, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from gpuopt.measure import Interval
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
from gpuopt.report.names import drawable, shortened

__all__ = ["FrontierPoint", "frontier_figure"]

_WIDTH_INCH, _HEIGHT_INCH = 9.0, 5.6
_LABEL_COLUMNS = 24
_NEAR_PX = 14.0  # below that labels would lie on each other


@dataclass(frozen=True)
class FrontierPoint:
    """One policy.

    Attributes:
        name: Of the policy.
        minutes: What it takes.
        macro_f1: What it is worth.
        is_on_frontier: Whether no cheaper one beats it.
        is_chosen: Whether it is the one to take.
    """

    name: str
    minutes: Interval
    macro_f1: Interval
    is_on_frontier: bool = False
    is_chosen: bool = False


def frontier_figure(
    points: Sequence[FrontierPoint],
    *,
    title: str,
    subtitle: str = "",
    target_minutes: float | None = None,
    min_f1: float | None = None,
) -> Figure:
    """Draw policies with the intervals of both figures, and a line through the frontier.

    Args:
        points: At least one.
        title: First line.
        subtitle: Second line, such as the data set and the device.
        target_minutes: Drawn as a limit.
        min_f1: Drawn as a limit.
    """
    figure = new_figure(_WIDTH_INCH, _HEIGHT_INCH)
    write_head(figure, drawable(title), drawable(subtitle))
    left, bottom = 0.75 / _WIDTH_INCH, 0.7 / _HEIGHT_INCH
    top = 1 - (HEAD_INCH + 0.15) / _HEIGHT_INCH
    axes = figure.add_axes((left, bottom, 0.96 - left, top - bottom))
    _style(axes, points, target_minutes)
    on_frontier = sorted((p for p in points if p.is_on_frontier), key=lambda p: p.minutes.value)
    axes.plot(
        [point.minutes.value for point in on_frontier],
        [point.macro_f1.value for point in on_frontier],
        color=RIGHT,
        linewidth=1.2,
        alpha=0.5,
        zorder=2,
    )
    for point in points:
        _draw_point(axes, point)
    for value, draw in ((target_minutes, axes.axvline), (min_f1, axes.axhline)):
        if value is not None:
            draw(value, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    _label(axes, points)
    return figure


def _style(axes: Axes, points: Sequence[FrontierPoint], target_minutes: float | None) -> None:
    axes.set_xscale("log")
    low = min(point.minutes.low for point in points)
    high = max(point.minutes.high for point in points)
    if target_minutes is not None:
        low, high = min(low, target_minutes), max(high, target_minutes)
    axes.set_xlim(low / 1.25, high * 1.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if high / low < 30:  # a decade may hold no or one power of ten
        ticks = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
        axes.set_xticks([tick for tick in ticks if low / 1.25 <= tick <= high * 1.6])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("minutes", color=MUTED, fontproperties=font(9))
    axes.set_ylabel("macro-F1", color=MUTED, fontproperties=font(9))
    axes.tick_params(length=0, which="both", colors=MUTED, labelsize=8)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.margins(y=0.08)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_point(axes: Axes, point: FrontierPoint) -> None:
    colour = WRONG if point.is_chosen else RIGHT if point.is_on_frontier else MUTED
    minutes, score = point.minutes, point.macro_f1
    axes.errorbar(
        minutes.value,
        score.value,
        xerr=_reach(minutes),
        yerr=_reach(score),
        fmt="o",
        markersize=8 if point.is_chosen else 6,
        markerfacecolor=colour if point.is_on_frontier or point.is_chosen else "white",
        color=colour,
        ecolor=colour,
        elinewidth=0.9,
        alpha=1.0 if point.is_on_frontier or point.is_chosen else 0.65,
        zorder=4 if point.is_chosen else 3,
    )


def _reach(interval: Interval) -> list[list[float]]:
    """Say how far an interval reaches below and above; a bootstrap's may leave its value out."""
    below, above = interval.value - interval.low, interval.high - interval.value
    return [[max(0.0, below)], [max(0.0, above)]]


def _label(axes: Axes, points: Sequence[FrontierPoint]) -> None:
    """Name the points, the chosen one first; a name that would lie on another one is left out."""
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (not p.is_chosen, not p.is_on_frontier)):
        x, y = axes.transData.transform((point.minutes.value, point.macro_f1.value))
        if any(abs(y - other_y) < _NEAR_PX and abs(x - other_x) < 90 for other_x, other_y in taken):
            continue
        taken.append((x, y))
        axes.annotate(
            shortened(drawable(point.name), _LABEL_COLUMNS),
            (point.minutes.value, point.macro_f1.value),
            (7, 4),
            textcoords="offset points",
            color=WRONG if point.is_chosen else INK if point.is_on_frontier else MUTED,
            fontproperties=font(9 if point.is_chosen else 8),
            parse_math=False,
        )
