"""Sample images with what the model says about them, right and wrong ones told apart."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from gpuopt.errors import InputError
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
from gpuopt.report.names import class_labels, drawable

__all__ = ["choose_samples", "samples_figure"]

_TILE_INCH = 1.55
_CAPTION_INCH = 0.42
_GAP_INCH = 0.16
_LABEL_COLUMNS = 20
_FEWEST_COLUMNS = 3


def choose_samples(
    targets: ArrayLike,
    predictions: ArrayLike,
    confidences: ArrayLike,
    limit: int = 24,
    *,
    only_wrong: bool = False,
) -> NDArray[np.int64]:
    """Choose samples worth looking at.

    Half are the errors that the model was surest of; the others are right and spread evenly over
    the confidences. A missing half is made up from the other one.

    Args:
        targets: True classes, [n].
        predictions: Predicted classes, [n].
        confidences: Probability of the predicted class, [n].
        limit: Greatest number of samples.
        only_wrong: Choose errors only.

    Returns:
        Rows, right ones first, each part by falling confidence.
    """
    sure: NDArray[np.int64] = np.argsort(-np.asarray(confidences), kind="stable")
    is_wrong = (np.asarray(targets) != np.asarray(predictions))[sure]
    wrong: NDArray[np.int64] = sure[is_wrong]
    right: NDArray[np.int64] = sure[~is_wrong]
    if only_wrong:
        return wrong[:limit]
    wrong_count = min(len(wrong), max(limit // 2, limit - len(right)))
    right_count = min(len(right), limit - wrong_count)
    spread = np.linspace(0, max(len(right) - 1, 0), right_count).astype(np.int64)
    return np.concatenate((right[spread], wrong[:wrong_count]))


def samples_figure(
    images: ArrayLike,
    targets: ArrayLike,
    predictions: ArrayLike,
    confidences: ArrayLike,
    class_names: Sequence[str],
    *,
    title: str = "Sample predictions",
    subtitle: str = "",
    columns: int = 6,
) -> Figure:
    """Draw a grid of images with predicted and true classes.

    Right ones have a blue frame and a tick, wrong ones an orange frame and a cross, so that
    neither needs the colour. A target of -1 is unknown and drawn without a mark.

    Args:
        images: uint8 [n, 3, s, s].
        targets: True classes, [n]; -1 where unknown.
        predictions: Predicted classes, [n].
        confidences: Probability of the predicted class, [n].
        class_names: Names by index.
        title: First line.
        subtitle: Second line.
        columns: Images per row.

    Raises:
        InputError: For images of another type or shape.
    """
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise InputError(
            f"sample images must be uint8 [n, 3, s, s], not {pixels.dtype} {list(pixels.shape)}"
        )
    labels = class_labels(class_names, _LABEL_COLUMNS)
    facts = zip(*(np.asarray(x).tolist() for x in (targets, predictions, confidences)), strict=True)
    figure, tiles = _grid(len(pixels), columns)
    write_head(figure, drawable(title), drawable(subtitle))
    for axes, image, (target, predicted, confidence) in zip(tiles, pixels, facts, strict=True):
        axes.imshow(image.transpose(1, 2, 0), interpolation="antialiased", aspect="auto")
        true_label = labels[target] if target >= 0 else None
        _mark(axes, labels[predicted], confidence, true_label, is_right=target == predicted)
    return figure


def _grid(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with equal square axes in rows, and room below each for two lines."""
    columns = min(columns, max(count, _FEWEST_COLUMNS))
    rows = max(1, -(-count // columns))
    step_x, step_y = _TILE_INCH + _GAP_INCH, _TILE_INCH + _CAPTION_INCH + _GAP_INCH
    width = 2 * MARGIN_INCH + columns * step_x - _GAP_INCH
    height = HEAD_INCH + MARGIN_INCH + rows * step_y - _GAP_INCH
    figure = new_figure(width, height)
    tiles: list[Axes] = []
    for index in range(count):
        row, column = divmod(index, columns)
        left = MARGIN_INCH + column * step_x
        bottom = height - HEAD_INCH - row * step_y - _TILE_INCH
        box = (left / width, bottom / height, _TILE_INCH / width, _TILE_INCH / height)
        tiles.append(figure.add_axes(box, xticks=[], yticks=[]))
    return figure, tiles


def _mark(
    axes: Axes, predicted: str, confidence: float, true_label: str | None, *, is_right: bool
) -> None:
    if true_label is None:
        sign, frame, text_colour, line_width = "", FAINT, INK, 1.0
    elif is_right:
        sign, frame, text_colour, line_width = "✓ ", RIGHT, RIGHT, 1.6
    else:
        sign, frame, text_colour, line_width = "✗ ", WRONG, WRONG, 2.6
        second = f"true: {true_label}"
        write_near(axes, second, (0, 0), (0, -24), font(7.5), MUTED, room_points=_TILE_INCH * 72)
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=line_width)
    share = f"{confidence:.0%}"
    right = write_near(axes, share, (1, 0), (0, -12), font(7.5), text_colour, align="right")
    room_points = _TILE_INCH * 72 - right.get_window_extent().width * 72 / right.figure.dpi - 4
    caption = sign + predicted
    bold = font(7.5, "bold")
    write_near(axes, caption, (0, 0), (0, -12), bold, text_colour, room_points=room_points)
