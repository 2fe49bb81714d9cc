import io
import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from gpuopt.errors import InputError
from gpuopt.report import confusion_figure, png_bytes

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "한글 클래스",
    "$\\frac{x$",
    "a\x1b[31mred\n\tline",
    "x" * 500,
    "x" * 499 + "y",
    "",
    "\udc80bad",
]


def matrix(classes, right=50, wrong=2):
    return np.full((classes, classes), wrong) + np.eye(classes, dtype=int) * right


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn(figure):
    return np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))


@pytest.mark.parametrize("names", [["cat", "dog"], HOSTILE, [f"class {i}" for i in range(100)]])
def test_nothing_touches_the_edges_and_no_labels_overlap(names):
    figure = confusion_figure(matrix(len(names)), names, subtitle="s" * 300)
    image = drawn(figure)
    for edge in (image[:6], image[-6:], image[:, :6], image[:, -6:]):
        assert (edge == 255).all()
    axes = figure.axes[0]
    for labels, low, high in (
        (axes.get_xticklabels(), "x0", "x1"),
        (axes.get_yticklabels()[::-1], "y0", "y1"),
    ):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) == len(names)
        for before, after in itertools.pairwise(boxes):
            assert getattr(before, high) <= getattr(after, low) + 1.0


def test_counts_are_written_up_to_twenty_classes():
    names = [f"c{i}" for i in range(20)]
    counts = matrix(20)
    counts[0, 0] = 123456
    assert "123456" in texts(confusion_figure(counts, names))
    assert texts(confusion_figure(counts, names)).count("2") == 20 * 19
    more = confusion_figure(matrix(21, right=4711), [*names, "c20"])
    assert "4713" not in texts(more)


def test_more_than_a_hundred_classes_are_labelled_in_steps():
    names = [f"bird {i}" for i in range(250)]
    figure = confusion_figure(matrix(250), names)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == names[::3]
    assert max(drawn(figure).shape) < 2000


def test_colours_are_shares_of_the_true_class():
    """A row with few samples is as dark as one with many; a row without any is grey."""
    counts = [[5, 5, 0], [500, 500, 0], [0, 0, 0]]
    figure = confusion_figure(counts, ["a", "b", "c"])
    cells = figure.axes[0].get_images()[0]
    colours = cells.to_rgba(cells.get_array())
    np.testing.assert_allclose(colours[0], colours[1])
    assert colours[0, 0, :3].sum() < colours[0, 2, :3].sum()
    np.testing.assert_allclose(colours[2, 0, :3], np.array([0xEC, 0xEF, 0xF2]) / 255)


def test_darker_means_more():
    shares = np.linspace(0, 1, 50)
    cells = confusion_figure([[1, 0], [0, 1]], ["a", "b"]).axes[0].get_images()[0]
    luminance = cells.to_rgba(shares)[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) < 0).all()


@pytest.mark.parametrize("counts", [np.ones((2, 3)), np.ones((3, 3)), np.ones(2), np.ones((0, 0))])
def test_a_matrix_that_does_not_go_with_the_names_is_refused(counts):
    with pytest.raises(InputError, match="confusion matrix of shape"):
        confusion_figure(counts, [] if counts.size == 0 else ["a", "b"])
