import math
import random
import statistics

import pytest

from gpuopt.measure.pairs import (
    abba_orders,
    paired_ratio,
    sign_flip_p,
    spread,
    student_t_quantile,
    verdict,
)


def simulate(orders, factors, seed=0, drift=0.0, noise=0.0, base_s=0.1):
    """Segment means on a machine that slows down by `drift` per segment."""
    numbers = random.Random(seed)
    times = {name: [] for name in factors}
    slot = 0
    for order in orders:
        for name in order:
            speed = (1 + drift * slot) * numbers.lognormvariate(0, noise)
            times[name].append(base_s * factors[name] * speed)
            slot += 1
    return times


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [  # from printed tables
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 5, 2.57058),
        (0.975, 9, 2.26216),
        (0.95, 10, 1.81246),
        (0.995, 4, 4.60409),
        (0.975, 30, 2.04227),
        (0.975, 120, 1.97993),
    ],
)
def test_t_quantiles_are_those_of_the_tables(probability, degrees, expected):
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("probability", "degrees"), [(0.5, 3), (1.0, 3), (0.975, 0)])
def test_impossible_t_quantiles_are_refused(probability, degrees):
    with pytest.raises(ValueError, match="no t quantile"):
        student_t_quantile(probability, degrees)


def test_every_round_has_everybody_and_is_followed_by_its_reverse():
    orders = abba_orders(("a", "b", "c"), 9, seed=3)
    assert len(orders) == 9
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert all(orders[i + 1] == orders[i][::-1] for i in range(0, 8, 2))
    assert len(set(orders)) > 2


def test_a_planted_difference_lies_inside_the_interval():
    times = simulate(abba_orders("ab", 10), {"a": 1.1, "b": 1.0}, 1, drift=0.002, noise=0.01)
    ratio = paired_ratio(times["a"], times["b"])
    assert 1.0 < ratio.low < 1.1 < ratio.high < 1.15
    assert ratio.ratio_of_medians == pytest.approx(1.1, rel=0.02)
    assert ratio.sign_flip_p == pytest.approx(2 / 2**10)
    assert ratio.pairs == 10


def test_the_interval_is_students_on_the_logarithms():
    logs = [0.01, 0.02, 0.03, 0.04, 0.05]  # mean 0.03, standard error 0.0158114 / sqrt(5)
    ratio = paired_ratio([math.exp(value) for value in logs], [1.0] * 5)
    half = 2.776445 * 0.00707107
    assert math.log(ratio.ratio) == pytest.approx(0.03)
    assert math.log(ratio.low) == pytest.approx(0.03 - half, rel=1e-5)
    assert math.log(ratio.high) == pytest.approx(0.03 + half, rel=1e-5)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = []
    for seed in range(400):
        orders = abba_orders("ab", 10, seed)
        times = simulate(orders, {"a": 1.1, "b": 1.0}, seed, drift=0.001, noise=0.02)
        ratio = paired_ratio(times["a"], times["b"])
        covered.append(ratio.low <= 1.1 <= ratio.high)
    assert 0.91 <= statistics.fmean(covered) <= 0.99


def test_reversed_orders_cancel_a_drift_that_fools_a_fixed_order():
    same = {"a": 1.0, "b": 1.0}
    turned = simulate(abba_orders("ab", 10), same, drift=0.01, noise=1e-4)
    fixed = simulate([("a", "b")] * 10, same, drift=0.01, noise=1e-4)
    fair, unfair = (paired_ratio(times["a"], times["b"]) for times in (turned, fixed))
    assert fair.low < 1 < fair.high
    assert unfair.high < 1


def test_swapping_the_contestants_inverts_the_ratio():
    times = simulate(abba_orders("ab", 6), {"a": 1.3, "b": 1.0}, noise=0.05)
    there = paired_ratio(times["a"], times["b"])
    back = paired_ratio(times["b"], times["a"])
    assert (1 / back.ratio, 1 / back.high, 1 / back.low) == pytest.approx(
        (there.ratio, there.low, there.high)
    )


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 1.0], [1.0], "come in pairs"),
        ([1.0], [1.0], "at least two"),
        ([1.0, 0.0], [1.0, 1.0], "took no time"),
        ([], [], "took no time"),
    ],
)
def test_unusable_segments_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_ratio(a, b)


def test_the_sign_flip_test_counts_patterns():
    assert sign_flip_p([0.1] * 5) == 2 / 32
    assert sign_flip_p([0.1, -0.1]) == 1.0
    assert sign_flip_p([3.0, 1.0, 1.0]) == 2 / 8


def test_many_pairs_have_no_exact_test():
    times = [1.0 + 0.01 * (i % 3) for i in range(20)]
    assert paired_ratio(times, times[::-1]).sign_flip_p is None


def test_a_spread_is_centred_on_the_geometric_mean():
    found = spread([1.0, 2.0, 4.0])
    assert found.value == pytest.approx(2.0)
    assert found.low * found.high == pytest.approx(4.0)
    assert spread([1.0, 2.0, 4.0], confidence=0.5).low > found.low


@pytest.mark.parametrize(
    ("low", "high", "goal", "pairs", "expected"),
    [
        (0.99, 1.04, "<= 1.05", 10, "met"),
        (1.06, 1.10, "<= 1.05", 10, "missed"),
        (1.04, 1.06, "<= 1.05", 10, "not decided"),
        (1.60, 1.80, ">= 1.5", 6, "met"),
        (1.20, 1.40, ">= 1.5", 6, "missed"),
        (1.40, 1.60, ">= 1.5", 6, "not decided"),
        (0.99, 1.00, "<= 1.05", 4, "not decided"),
    ],
)
def test_the_whole_interval_decides(low, high, goal, pairs, expected):
    assert verdict(low, high, goal, pairs) == expected


def test_a_goal_in_other_words_is_refused():
    with pytest.raises(ValueError, match="worded"):
        verdict(1.0, 1.0, "below 2")
