"""The confusion matrix as a picture, for 2 to 100 classes and more."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from gpuopt.errors import InputError
from gpuopt.report.figures import FAINT, HEAD_INCH, INK, MUTED, new_figure, write_head
from gpuopt.report.fonts import font
from gpuopt.report.names import class_labels, drawable

__all__ = ["confusion_figure"]

_MOST_COUNTED_CLASSES = 20
_MOST_LABELS = 100
_LABEL_COLUMNS = 26


def confusion_figure(
    matrix: ArrayLike,
    class_names: Sequence[str],
    *,
    title: str = "Confusion matrix",
    subtitle: str = "",
) -> Figure:
    """Draw a confusion matrix, every row as shares of its true class.

    Colours follow the square root of the share, so that the few errors of a good model are seen
    beside a strong diagonal. Up to 20 classes, counts are written into the cells. A class
    without samples has a grey row.

    Args:
        matrix: Counts, [classes, classes], true classes as rows.
        class_names: Names by index; shown shortened and without what cannot be drawn.
        title: First line.
        subtitle: Second line, such as the data set and its macro-F1.

    Raises:
        InputError: When the matrix is not square or has another size than the names.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    classes = len(class_names)
    if counts.shape != (classes, classes) or not classes:
        raise InputError(
            f"a confusion matrix of shape {list(counts.shape)} does not go with "
            f"{classes} class names"
        )
    labels = class_labels(class_names, _LABEL_COLUMNS)
    cell_inch = float(np.clip(10.0 / classes, 0.12, 0.5))
    side_inch = min(max(classes * cell_inch, 3.2), 12.0)
    point_size = float(np.clip(cell_inch * 72 * 0.62, 5.5, 9.0))
    figure, axes, rotation = _placed_axes(side_inch, labels, point_size)
    write_head(figure, drawable(title), drawable(subtitle))
    scale = _draw_cells(axes, counts, point_size)
    _draw_scale(figure, axes, scale)
    _draw_labels(axes, labels, point_size, rotation)
    return figure


def _placed_axes(
    side_inch: float, labels: list[str], point_size: float
) -> tuple[Figure, Axes, float]:
    """Make square axes with just the room that their labels need, and say how to turn those."""
    figure = new_figure(1.0, 1.0)
    widest_inch = 0.0
    for label in labels:
        probe = figure.text(0, 0, label, fontproperties=font(point_size), parse_math=False)
        widest_inch = max(widest_inch, probe.get_window_extent().width / figure.dpi)
        probe.remove()
    is_flat = widest_inch < 0.9 * side_inch / len(labels)
    below_inch = 0.2 if is_flat else widest_inch
    left, bottom, right, top = widest_inch + 0.65, below_inch + 0.6, 1.15, HEAD_INCH + 0.05
    width, height = left + side_inch + right, bottom + side_inch + top
    figure.set_size_inches(width, height)
    axes = figure.add_axes((left / width, bottom / height, side_inch / width, side_inch / height))
    return figure, axes, 0.0 if is_flat else 90.0


def _draw_cells(axes: Axes, counts: NDArray[np.float64], point_size: float) -> ScalarMappable:
    """Draw shares as colours and return the scale of colours."""
    classes = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_invalid(
        np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    )
    colours = colormaps["Blues"].with_extremes(bad="#eceff2")
    scale = PowerNorm(0.5, 0.0, 1.0)
    axes.imshow(shares, cmap=colours, norm=scale, interpolation="nearest", aspect="auto")
    edges = np.arange(classes + 1) - 0.5
    line_width = 1.2 if classes <= _MOST_COUNTED_CLASSES else 0.25
    axes.hlines(edges, -0.5, classes - 0.5, colors="white", linewidth=line_width)
    axes.vlines(edges, -0.5, classes - 0.5, colors="white", linewidth=line_width)
    if classes <= _MOST_COUNTED_CLASSES:
        for row, column in np.argwhere(counts > 0):
            count = f"{counts[row, column]:.0f}"
            dark = float(scale(shares[row, column])) > 0.55
            axes.text(
                column,
                row,
                count,
                ha="center",
                va="center",
                color="white" if dark else INK,
                fontproperties=font(point_size * min(1.0, 4.5 / len(count))),
            )
    return ScalarMappable(scale, colours)


def _draw_scale(figure: Figure, axes: Axes, mappable: ScalarMappable) -> None:
    """Put a narrow colour scale beside the matrix."""
    box = axes.get_position()
    width = figure.get_figwidth()
    bar = figure.add_axes((box.x1 + 0.18 / width, box.y0, 0.14 / width, box.height))
    scale = figure.colorbar(mappable, cax=bar, ticks=[0.0, 0.01, 0.05, 0.2, 0.5, 1.0])
    scale.outline.set_visible(False)
    bar.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    bar.tick_params(length=0, colors=MUTED)
    for label in bar.get_yticklabels():
        label.set_fontproperties(font(7.5))
    bar.set_ylabel("share of the true class", color=MUTED, fontproperties=font(8))


def _draw_labels(axes: Axes, labels: list[str], point_size: float, rotation: float) -> None:
    every = -(-len(labels) // _MOST_LABELS)
    shown = range(0, len(labels), every)
    texts = [labels[index] for index in shown]
    axes.set_yticks(shown, texts)
    axes.set_xticks(shown, texts, rotation=rotation)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(fontproperties=font(point_size), color=INK, parse_math=False)
    axes.tick_params(length=0, pad=4)
    axes.set_ylabel("true class", color=MUTED, fontproperties=font(9), labelpad=8)
    axes.set_xlabel("predicted class", color=MUTED, fontproperties=font(9), labelpad=8)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
