import pytest

from gpuopt.measure import Interval
from gpuopt.tta.frontier import ScoredPolicy
from gpuopt.tta.recommender import mark_frontier, recommend


def policy(name, f1, gain=0.02, selection_f1=None, likelihood=None, views=1):
    difference = None if name == "none" else Interval(gain, gain - 0.01, gain + 0.01)
    return ScoredPolicy(
        name,
        (None,) * views,
        "mean",
        Interval(f1, f1 - 0.01, f1 + 0.01),
        difference,
        f1 if selection_f1 is None else selection_f1,
        -1 + f1 if likelihood is None else likelihood,
        is_preset=True,
    )


def minutes(value):
    return Interval(value, 0.9 * value, 1.1 * value)


NONE, FIVE, FIFTEEN = policy("none", 0.90), policy("five", 0.93), policy("fifteen", 0.94)
OPTIONS = mark_frontier([(FIFTEEN, minutes(15)), (NONE, minutes(1)), (FIVE, minutes(5))])


@pytest.mark.parametrize(
    ("target", "least", "chosen"),
    [
        (20, 0.915, "five"),  # the cheapest, not the best
        (20, 0.925, "fifteen"),  # the lower end counts
        (None, 0.925, "fifteen"),
        (20, 0.5, "none"),
        (5.5, 0.915, "five"),
    ],
)
def test_the_cheapest_that_is_surely_good_and_quick_enough(target, least, chosen):
    found = recommend(OPTIONS, target_minutes=target, min_f1=least)
    assert found.chosen.scored.name == chosen
    assert found.nearest is None


@pytest.mark.parametrize(
    ("target", "least", "nearest"),
    [
        (20, 0.935, "fifteen"),
        (10, 0.935, "five"),  # the surest within the time
        (5.4, 0.915, "none"),  # the upper end of five's time is 5.5
        (0.5, 0.5, "none"),  # nothing is quick enough: the quickest
        (0.5, None, "none"),
    ],
)
def test_else_none_and_the_nearest(target, least, nearest):
    found = recommend(OPTIONS, target_minutes=target, min_f1=least)
    assert found.chosen is None
    assert found.nearest.scored.name == nearest


def test_without_a_least_f1_the_likeliest_is_taken_when_it_is_surely_better():
    assert recommend(OPTIONS, target_minutes=None, min_f1=None).chosen.scored is FIFTEEN
    assert recommend(OPTIONS, target_minutes=6, min_f1=None).chosen.scored is FIVE
    doubtful = mark_frontier([(NONE, minutes(1)), (policy("five", 0.93, 0.005), minutes(5))])
    found = recommend(doubtful, target_minutes=None, min_f1=None)
    assert found.chosen.scored is NONE
    assert "five is not surely better" in found.reason


def test_the_frontier_is_judged_on_the_half_that_chose():
    worse = policy("worse", 0.99, selection_f1=0.92)
    options = mark_frontier(
        [(FIVE, minutes(5)), (worse, minutes(7)), (NONE, minutes(1)), (FIFTEEN, minutes(15))]
    )
    assert [(o.scored.name, o.is_on_frontier) for o in options] == [
        ("none", True),
        ("five", True),
        ("worse", False),
        ("fifteen", True),
    ]
