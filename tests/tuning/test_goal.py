"""Which of several measured settings serves a goal."""

import pytest

from gpuopt.tuning.goal import Figures, best_for

GIB = 2**30
CANDIDATES = {
    "lean": Figures(60, 20, 1 * GIB),
    "even": Figures(90, 10, 2 * GIB),
    "fast": Figures(100, 15, 4 * GIB),
}


@pytest.mark.parametrize(
    ("goal", "best"), [("throughput", "fast"), ("latency", "even"), ("memory", "lean")]
)
def test_each_goal_has_its_own_best(goal, best):
    assert best_for(goal, CANDIDATES) == best


def test_memory_may_cost_only_so_much_speed():
    assert best_for("memory", CANDIDATES, least_speed_ratio=0.61) == "even"
    assert best_for("memory", CANDIDATES, least_speed_ratio=1.0) == "fast"


@pytest.mark.parametrize("goal", ["throughput", "latency"])
def test_what_asks_less_wins_within_the_noise(goal):
    nearly = {"less": Figures(99.5, 10.05), "more": Figures(100, 10)}
    assert best_for(goal, nearly) == "less"
    assert best_for(goal, {**nearly, "less": Figures(98, 10.3)}) == "more"


def test_memory_that_nobody_knows_counts_as_the_most():
    assert best_for("memory", {"unknown": Figures(1, 1), "known": Figures(1, 1, GIB)}) == "known"
