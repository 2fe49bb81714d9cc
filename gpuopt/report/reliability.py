"""The reliability diagram: accuracy by confidence, before and after a temperature."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from gpuopt.measure import CalibrationScores, ReliabilityBins
from gpuopt.report.figures import (
    FAINT,
    HEAD_INCH,
    INK,
    MARGIN_INCH,
    MUTED,
    RIGHT,
    WRONG,
    new_figure,
    write_head,
    write_near,
)
from gpuopt.report.fonts import font
from gpuopt.report.names import drawable

__all__ = ["reliability_figure"]

_SIDE_INCH = 3.6
_COUNTS_INCH = 1.0
_BETWEEN_INCH = 0.55
_LEFT_INCH, _BELOW_INCH = 0.75, 0.65
_ABOVE_INCH = 0.5  # two lines over each panel
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def reliability_figure(
    before: tuple[ReliabilityBins, CalibrationScores],
    after: tuple[ReliabilityBins, CalibrationScores],
    temperature: float,
    *,
    title: str = "Reliability",
    subtitle: str = "",
) -> Figure:
    """Draw accuracy against confidence, side by side before and after a temperature.

    A line stands at the mean confidence of the samples of a bin. Where they are surer than right,
    the gap from their accuracy up to it is orange; where they are right more often, the bar goes
    on above it in light blue. Below are the counts of the bins.

    Args:
        before: Bins and scores at temperature 1.
        after: At the temperature.
        temperature: For the heading of the second panel.
        title: First line.
        subtitle: Second line, such as the policy of views and the images.
    """
    panels = (("before", *before), (f"temperature {temperature:.3f}", *after))
    width = _LEFT_INCH + 2 * _SIDE_INCH + _BETWEEN_INCH + MARGIN_INCH + 0.1
    height = HEAD_INCH + _ABOVE_INCH + _SIDE_INCH + 0.12 + _COUNTS_INCH + _BELOW_INCH
    figure = new_figure(width, height)
    legend = "bars: accuracy, lines: mean confidence"
    write_head(figure, drawable(title), " · ".join(filter(None, (drawable(subtitle), legend))))
    most = max(int(bins.counts.max()) for _, bins, _ in panels)
    for number, (heading, bins, scores) in enumerate(panels):
        left = (_LEFT_INCH + number * (_SIDE_INCH + _BETWEEN_INCH)) / width
        bottom = (_BELOW_INCH + _COUNTS_INCH + 0.12) / height
        panel_width = _SIDE_INCH / width
        axes = figure.add_axes((left, bottom, panel_width, _SIDE_INCH / height))
        below = figure.add_axes((left, _BELOW_INCH / height, panel_width, _COUNTS_INCH / height))
        _draw_gaps(axes, bins)
        _draw_counts(below, bins.counts, most)
        _head_panel(axes, heading, scores)
        if number == 0:
            axes.set_ylabel("accuracy", color=MUTED, fontproperties=font(9), labelpad=6)
            below.set_ylabel("images", color=MUTED, fontproperties=font(9), labelpad=6)
    return figure


def _draw_gaps(axes: Axes, bins: ReliabilityBins) -> None:
    size, filled = len(bins.counts), bins.counts > 0
    centres = ((np.arange(size) + 0.5) / size)[filled]
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    width = 0.86 / size
    agreed, gap = np.minimum(accuracy, confidence), np.abs(confidence - accuracy)
    colours = [WRONG if over else RIGHT for over in confidence > accuracy]
    axes.bar(centres, agreed, width, color=RIGHT, alpha=0.75, linewidth=0, zorder=2)
    axes.bar(centres, gap, width, agreed, color=colours, alpha=0.35, linewidth=0, zorder=2)
    half = width / 2
    axes.hlines(confidence, centres - half, centres + half, color=WRONG, linewidth=1.8, zorder=4)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    _dress(axes, _TICKS, _TICKS)
    axes.tick_params(labelbottom=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _draw_counts(axes: Axes, counts: NDArray[np.int64], most: int) -> None:
    """Draw how many samples each bin holds, and write the number over its bar."""
    size, is_long = len(counts), most > 999
    centres = (np.arange(size) + 0.5) / size
    axes.bar(centres, counts, 0.86 / size, color=FAINT, linewidth=0)
    for centre, count in zip(centres, counts, strict=True):
        if count:
            axes.annotate(
                f"{count}",
                (centre, count),
                (0, 2),
                textcoords="offset points",
                rotation=90 if is_long else 0,
                ha="center",
                va="bottom",
                color=INK,
                fontproperties=font(6.5),
            )
    # Room for the digits above the highest bar.
    letters = math.ceil(math.log10(most + 1)) if is_long else 1
    axes.set(xlim=(0, 1), ylim=(0, most * (1.25 + 0.11 * letters)))
    _dress(axes, _TICKS, ())
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("confidence", color=MUTED, fontproperties=font(9), labelpad=6)


def _dress(axes: Axes, across: Sequence[float], up: Sequence[float]) -> None:
    axes.set_xticks(across)
    axes.set_yticks(up)
    axes.tick_params(length=0, pad=4, colors=MUTED)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontproperties(font(7.5))
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(FAINT)


def _head_panel(axes: Axes, heading: str, scores: CalibrationScores) -> None:
    words = f"ECE {scores.ece} · NLL {scores.nll}"
    write_near(axes, heading, (0, 1), (0, 20), font(10, "bold"), INK)
    write_near(axes, words, (0, 1), (0, 7), font(8), MUTED, room_points=_SIDE_INCH * 72)
