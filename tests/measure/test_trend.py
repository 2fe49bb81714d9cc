import numpy as np
import pytest

from gpuopt.measure.trend import Trend, trend_of

TIMES = np.linspace(0, 600, 400)


def walk(seed, drift=0.0, noise=1.0):
    dice = np.random.default_rng(seed)
    return 100 + drift * TIMES + dice.normal(0, noise, len(TIMES))


@pytest.mark.parametrize("seed", range(5))
def test_a_slope_is_found_in_noise(seed):
    trend = trend_of(TIMES, walk(seed, drift=0.05))
    assert trend.grows
    assert trend.low <= 0.05 <= trend.high
    assert trend.slope == pytest.approx(0.05, rel=0.1)


def test_the_interval_holds_the_slope_in_99_of_100():
    trends = [trend_of(TIMES, walk(seed, drift=0.05)) for seed in range(200)]
    assert sum(trend.low <= 0.05 <= trend.high for trend in trends) >= 194


def test_noise_alone_does_not_grow_a_hundred_times():
    assert not any(trend_of(TIMES, walk(seed)).grows for seed in range(100))


def test_what_comes_and_goes_does_not_grow():
    validation = np.where(np.arange(400) % 50 < 5, 500.0, 100.0)
    assert not trend_of(TIMES, validation).grows
    garbage = 100 + (np.arange(400) % 37) * 2.0
    assert not trend_of(TIMES, garbage).grows


def test_one_step_up_is_no_growth_without_end():
    once = np.where(TIMES > 60, 150.0, 100.0)
    assert trend_of(TIMES, once).slope == 0


def test_growth_that_comes_to_an_end_is_none():
    filled = 100 + 30 * (1 - np.exp(-TIMES / 100))
    trend = trend_of(TIMES, filled)
    assert trend.p < 0.001
    assert trend.low > 0
    assert not trend.grows
    assert trend_of(TIMES, filled + 0.05 * TIMES).grows


def test_a_trend_needs_two_readings_in_each_of_eight_stretches():
    assert trend_of(range(16), range(16)).grows
    assert trend_of(range(15), range(15)) == Trend()


def test_a_leak_under_garbage_is_found():
    garbage = 100 + (np.arange(400) % 37) * 2.0 + 0.1 * TIMES
    trend = trend_of(TIMES, garbage)
    assert trend.grows
    assert trend.slope == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0], [5.0] * 50])
def test_too_little_or_nothing_to_tell(values):
    assert trend_of(range(len(values)), values) == Trend()
