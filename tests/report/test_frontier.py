import numpy as np
import pytest
from matplotlib.colors import to_hex

from gpuopt.measure import Interval
from gpuopt.report import FrontierPoint, frontier_figure, png_bytes
from gpuopt.report.figures import RIGHT, WRONG


def point(name, minutes, score, **marks):
    return FrontierPoint(
        name,
        Interval(minutes, 0.9 * minutes, 1.2 * minutes),
        Interval(score, score - 0.01, score + 0.02),
        **marks,
    )


POINTS = [
    point("none", 0.5, 0.90, is_on_frontier=True),
    point("worse", 2.0, 0.89),
    point("$greedy_4\x1b", 3.0, 0.94, is_on_frontier=True, is_chosen=True),
]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_policy_is_drawn_and_named_without_escape_codes():
    figure = frontier_figure(POINTS, title="T", subtitle="S")
    assert sorted(texts(figure)) == ["$greedy_4", "none", "worse"]
    (axes,) = figure.axes
    line = axes.lines[0]
    assert list(line.get_xdata()) == [0.5, 3.0]  # through the frontier only
    assert list(line.get_ydata()) == [0.90, 0.94]
    markers = [container.lines[0] for container in axes.containers]
    assert [to_hex(marker.get_color()) for marker in markers][0::2] == [RIGHT, WRONG]
    assert png_bytes(figure) == png_bytes(frontier_figure(POINTS, title="T", subtitle="S"))


def test_limits_are_drawn_where_they_are_given():
    (plain,) = frontier_figure(POINTS, title="").axes
    (limited,) = frontier_figure(POINTS, title="", target_minutes=20.0, min_f1=0.93).axes
    assert len(limited.lines) == len(plain.lines) + 2
    assert limited.get_xlim()[1] > 20
    assert plain.get_xlim()[1] < 20


def test_names_that_would_lie_on_each_other_are_left_out():
    crowd = [point(f"p{i}", 1.0 + 0.001 * i, 0.9) for i in range(20)]
    figure = frontier_figure([*crowd, POINTS[2]], title="")
    assert texts(figure) == ["$greedy_4", "p0"]


@pytest.mark.parametrize("count", [1, 30])
def test_any_number_of_policies_and_odd_intervals_are_drawn(count):
    rng = np.random.default_rng(0)
    points = [
        FrontierPoint(f"p{i}", Interval(m, m, m), Interval(0.5, 0.6, 0.4))
        for i, m in enumerate(rng.uniform(0.001, 500, count))
    ]
    assert png_bytes(frontier_figure(points, title="T")).startswith(b"\x89PNG")
