import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from gpuopt.errors import InputError
from gpuopt.report import choose_samples, png_bytes, samples_figure
from gpuopt.report.figures import RIGHT, WRONG

NAMES = ["invoice", "<img src=x>", "한글", "y" * 300, "$x"]


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 3, 20, 20), dtype=np.uint8)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def frame(axes):
    return to_hex(axes.spines["left"].get_edgecolor())


def test_right_wrong_and_unknown_differ_by_colour_and_by_sign():
    figure = samples_figure(
        images(3), [0, 1, -1], [0, 0, 1], [0.98, 0.5, 0.7], NAMES, title="Samples"
    )
    right, wrong, unknown = figure.axes
    assert texts(right) == ["98%", "✓ invoice"]
    assert sorted(texts(wrong)) == ["50%", "true: <img src=x>", "✗ invoice"]
    assert texts(unknown) == ["70%", "<img src=x>"]
    assert frame(right) == RIGHT
    assert frame(wrong) == WRONG
    assert frame(unknown) not in (RIGHT, WRONG)
    assert "Samples" in texts(figure)
    png_bytes(figure)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 24])
def test_tiles_are_square_and_within_the_figure(count):
    rows = np.arange(count) % len(NAMES)
    figure = samples_figure(images(count), rows, rows[::-1], np.full(count, 1.0), NAMES)
    png_bytes(figure)
    assert len(figure.axes) == count
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert box.width == pytest.approx(box.height)
        captions = [text.get_window_extent() for text in axes.texts if text.get_text()]
        assert min(caption.y0 for caption in captions) > 0
        assert max(caption.x1 for caption in captions) <= box.x1 + 1
        share, name = axes.texts[-2:]
        assert name.get_window_extent().x1 < share.get_window_extent().x0


def test_wide_capitals_do_not_run_into_the_probability():
    figure = samples_figure(images(1), [0], [0], [1.0], ["W" * 40])
    share, name = figure.axes[0].texts
    assert "…" in name.get_text()
    assert name.get_window_extent().x1 < share.get_window_extent().x0


@pytest.mark.parametrize(
    "wrong_kind", [images(2).astype(np.float32), images(2)[0], images(2)[:, :2]]
)
def test_other_images_are_refused(wrong_kind):
    with pytest.raises(InputError, match="sample images"):
        samples_figure(wrong_kind, [0, 1], [0, 1], [1, 1], NAMES)


def test_choosing_takes_the_surest_errors_and_a_spread_of_the_rest():
    targets = np.zeros(100, int)
    predictions = np.repeat([0, 1], 50)
    confidences = np.concatenate((np.linspace(0, 1, 50), np.linspace(0, 1, 50)))
    rows = choose_samples(targets, predictions, confidences, 10)
    assert rows[5:].tolist() == [99, 98, 97, 96, 95]
    assert rows[:5].tolist() == [49, 37, 25, 13, 0]
    assert choose_samples(targets, predictions, confidences, 3, only_wrong=True).tolist() == [
        99,
        98,
        97,
    ]


@pytest.mark.parametrize(("right", "wrong"), [(0, 3), (3, 0), (2, 30), (30, 2), (30, 30), (1, 1)])
def test_a_missing_half_is_made_up_from_the_other(right, wrong):
    predictions = np.concatenate((np.zeros(right, int), np.ones(wrong, int)))
    rows = choose_samples(np.zeros(right + wrong, int), predictions, np.ones(right + wrong), 10)
    assert len(rows) == len(set(rows.tolist())) == min(10, right + wrong)
