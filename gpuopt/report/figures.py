"""One look for all pictures: fonts, colours, and saving in one piece.

Figures are made from matplotlib's classes, never through pyplot, whose list of open figures and
settings are shared by the whole process.
"""

import io
import math
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from gpuopt.report.fonts import font
from gpuopt.report.names import shortened
from gpuopt.storage import atomic_write

__all__ = [
    "FAINT",
    "HEAD_INCH",
    "INK",
    "MARGIN_INCH",
    "MUTED",
    "RIGHT",
    "WRONG",
    "new_figure",
    "png_bytes",
    "save_png",
    "write_head",
    "write_near",
]

HEAD_INCH = 0.75
MARGIN_INCH = 0.25
INK = "#1f2933"
MUTED = "#66707c"
FAINT = "#d9dee4"
# Two colours of the Okabe-Ito palette, told apart with any kind of colour blindness.
RIGHT = "#0072b2"
WRONG = "#d55e00"

_DPI = 110


def new_figure(width_inch: float, height_inch: float) -> Figure:
    """Return an empty white figure with an Agg canvas."""
    figure = Figure(figsize=(width_inch, height_inch), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_head(figure: Figure, title: str, subtitle: str) -> None:
    """Write a title and a line below it into the top left corner, cut to the figure's width.

    Takes the upper `HEAD_INCH` of the figure.
    """
    width, height = figure.get_size_inches()
    for text, below, size, weight, colour in (
        (title, 0.36, 13, "bold", INK),
        (subtitle, 0.57, 9, "normal", MUTED),
    ):
        line = figure.text(
            MARGIN_INCH / width,
            1.0 - below / height,
            text,
            fontproperties=font(size, weight),
            color=colour,
            parse_math=False,
        )
        room_px = (width - 2 * MARGIN_INCH) * figure.dpi
        while text and line.get_window_extent().width > room_px:
            text = text[: int(len(text) * 0.95)]
            line.set_text(f"{text.rstrip()}…")


def write_near(
    axes: Axes,
    text: str,
    corner: tuple[float, float],
    offset_points: tuple[float, float],
    properties: FontProperties,
    colour: str,
    *,
    align: Literal["left", "right"] = "left",
    room_points: float = math.inf,
) -> Text:
    """Write a text at a fixed distance from a corner of some axes, whatever their size.

    Args:
        axes: Where to write.
        text: Drawn as it is; a dollar sign starts no formula.
        corner: In fractions of the axes, (0, 0) at the bottom left.
        offset_points: From there to the text's baseline.
        properties: From `font`.
        colour: Of the text.
        align: Which end of the text lies there.
        room_points: The middle is cut out of a wider text.
    """
    written = axes.annotate(
        text,
        corner,
        offset_points,
        xycoords="axes fraction",
        textcoords="offset points",
        ha=align,
        color=colour,
        fontproperties=properties,
        parse_math=False,
    )
    room_px = room_points * _DPI / 72.0
    columns = len(text)
    while columns > 3 and written.get_window_extent().width > room_px:
        columns -= 1
        written.set_text(shortened(text, columns))
    return written


def png_bytes(figure: Figure) -> bytes:
    """Draw a figure as a PNG file; the same figure gives the same bytes."""
    stream = io.BytesIO()
    # The default metadata names the version of matplotlib.
    figure.savefig(stream, format="png", metadata={"Software": "gpuopt"})
    return stream.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, in one piece.

    Raises:
        OSError: When the folder is missing or cannot be written.
    """
    content = png_bytes(figure)
    with atomic_write(path) as stream:
        stream.write(content)
