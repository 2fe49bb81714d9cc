"""The micro-batch that serves a goal."""

import pytest

from gpuopt.choice import Choice
from gpuopt.tuning.batch_choice import choose_for_goal

GIB = 2**30
FOUND = Choice("micro_batch_size", 64, "measured", "70 fit")
TIMED = [(70, 700.0, 20 * GIB), (2, 200.0, 2 * GIB), (42, 690.0, 13 * GIB), (16, 400.0, 6 * GIB)]


def chosen(goal, found=FOUND, knee=40, timed=TIMED, ratio=0.5, per_device=256):
    return choose_for_goal(
        goal, found, knee=knee, timed=timed, per_device=per_device, least_speed_ratio=ratio
    )


@pytest.mark.parametrize(
    ("goal", "value", "words"),
    [
        ("throughput", 64, "70 fit"),
        ("latency", 37, "full throughput from 40 on; 256 in 7"),
        ("memory", 16, "6.00 GiB at 400 samples/s with 16"),
    ],
)
def test_each_goal_has_its_own_batch(goal, value, words):
    found = chosen(goal)
    assert (found.value, found.evidence) == (value, "measured")
    assert words in found.reason


def test_memory_keeps_the_share_of_the_speed():
    assert chosen("memory", ratio=0.9).value == 37  # 256 in 7 of up to 42
    assert chosen("memory", ratio=0.1).value == 2


def test_it_is_never_more_than_what_was_found():
    small = Choice("micro_batch_size", 8, "measured", "8 fit")
    assert chosen("latency", small).value == 8


@pytest.mark.parametrize("goal", ["latency", "memory"])
def test_what_was_not_timed_is_not_chosen_by(goal):
    predicted = Choice("micro_batch_size", 64, "predicted", "70 fit")
    found = chosen(goal, predicted, knee=None, timed=[])
    assert (found.value, found.evidence) == (64, "predicted")
    assert "nothing was timed" in found.reason
