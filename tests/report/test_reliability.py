import io
import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from gpuopt.measure import calibration_change, reliability_bins
from gpuopt.report import png_bytes, reliability_figure
from tests.measure.test_temperature import overconfident


def panels(samples=400, temperature=2.0):
    targets, logits = overconfident(samples, 5, 2.0)
    change = calibration_change(targets, logits, temperature, resamples=20)
    return (
        (reliability_bins(targets, logits), change.before),
        (reliability_bins(targets, logits, temperature), change.after),
    )


def texts(axes):
    return [text.get_text() for text in axes.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("samples", [3, 400, 60_000])
def test_counts_are_shown_and_nothing_is_cut_off_or_covered(samples):
    before, after = panels(samples)
    figure = reliability_figure(before, after, 2.0, subtitle="s" * 300)
    image = np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))
    for edge in (image[:6], image[-6:], image[:, :6], image[:, -6:]):
        assert (edge == 255).all()
    for axes, (bins, _) in zip(figure.axes[1::2], (before, after), strict=True):
        written = [text for text in axes.texts if text.get_text()]
        assert [int(text.get_text()) for text in written] == bins.counts[bins.counts > 0].tolist()
        boxes = [text.get_window_extent() for text in written]
        assert all(box.y1 <= axes.bbox.y1 for box in boxes)
        assert all(one.x1 <= other.x0 + 1 for one, other in itertools.pairwise(boxes))


def test_bars_reach_to_accuracy_and_lines_stand_at_confidence():
    before, after = panels()
    figure = reliability_figure(before, after, 2.0)
    for axes, (bins, _) in zip(figure.axes[::2], (before, after), strict=True):
        filled = bins.counts > 0
        agreed, gaps = axes.containers
        tops = [low.get_height() + gap.get_height() for low, gap in zip(agreed, gaps, strict=True)]
        higher = np.maximum(bins.accuracy, bins.confidence)[filled]
        np.testing.assert_allclose(tops, higher)
        lower = np.minimum(bins.accuracy, bins.confidence)[filled]
        np.testing.assert_allclose([bar.get_height() for bar in agreed], lower)
        lines = axes.collections[0].get_segments()
        np.testing.assert_allclose([line[0][1] for line in lines], bins.confidence[filled])
        over = (bins.confidence > bins.accuracy)[filled]
        red = [bar.get_facecolor()[0] > 0.5 for bar in gaps]
        assert red == over.tolist()


def test_panels_say_what_they_show():
    before, after = panels()
    figure = reliability_figure(before, after, 2.0, subtitle="tta=none on 400 validation images")
    assert "before" in texts(figure.axes[0])
    assert "temperature 2.000" in texts(figure.axes[2])
    for axes, (_, scores) in zip(figure.axes[::2], (before, after), strict=True):
        assert f"ECE {scores.ece} · NLL {scores.nll}" in texts(axes)
    assert any("tta=none on 400 validation images" in text for text in texts(figure))
