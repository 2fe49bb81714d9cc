"""Timing batches by whole rounds, on a clock of its own."""

import itertools

import pytest

from gpuopt.tuning.round_clock import RoundClock, RoundLimits


def run(gaps_s, workers=0, limits=None, samples=10, **options):
    """Let batches come after these gaps; returns the clock and the batches that it took."""
    now = [0.0]
    clock = RoundClock(workers, limits, clock=lambda: now[0], **options)
    for count, gap_s in enumerate(gaps_s, start=1):
        now[0] += gap_s
        if clock.batch_done(samples):
            return clock, count
    return clock, None


def test_the_first_burst_of_the_processes_is_not_timed():
    limits = RoundLimits(least_s=0, most_batches=8)
    clock, _ = run([100, *[0.0] * 3, *[1, 0, 0, 0] * 10], workers=4, limits=limits)
    assert clock.figures().samples_per_second == pytest.approx(40)


def test_it_stops_when_the_mean_is_steady_and_not_before_the_least_time():
    limits = RoundLimits(least_s=2.0, most_s=100, most_batches=10_000)
    _, steady = run(itertools.repeat(0.01), limits=limits)
    assert steady == pytest.approx(1 + 200, abs=4)
    noisy = itertools.cycle([0.01, 0.01, 0.01, 0.01, 0.05, 0.05, 0.05, 0.05])
    _, unsteady = run(noisy, limits=limits)
    assert unsteady > 2 * steady


def test_the_most_batches_are_whole_rounds():
    fixed = RoundLimits(0, 1e9, 100, stops_when_steady=False)
    _, count = run(itertools.repeat(0.01), workers=16, limits=fixed)
    assert count == 16 + 96
    few = RoundLimits(0, 1e9, 3, stops_when_steady=False)
    assert run(itertools.repeat(0.01), workers=16, limits=few)[1] == 16 + 16


def test_slow_batches_end_it_in_the_middle_of_a_round():
    clock, count = run(itertools.repeat(9.0), workers=8, limits=RoundLimits(most_s=10))
    assert count == 8 + 3
    assert clock.figures().samples_per_second == pytest.approx(10 / 9)


def test_rounds_have_whole_optimizer_steps():
    limits = RoundLimits(least_s=0, most_batches=1)
    _, count = run(itertools.repeat(1.0), limits=limits, batches_per_step=6, untimed=6)
    assert count == 12 + 6


def test_95_of_100_batches_stay_within():
    gaps = [1.0, *[0.01] * 95, *[0.5] * 5, *[0.01] * 40]
    limits = RoundLimits(0, 1e9, 100, stops_when_steady=False)
    assert run(gaps, limits=limits)[0].figures().batch_ms == pytest.approx(10)
    gaps = [1.0, *[0.01] * 90, *[0.5] * 10, *[0.01] * 40]
    assert run(gaps, limits=limits)[0].figures(7).batch_ms == pytest.approx(500)


def test_a_device_is_waited_for_between_rounds_only():
    waits = []

    def settled():
        waits.append(1)
        return float(len(waits))

    clock = RoundClock(0, RoundLimits(0, 1e9, 8), clock=lambda: 0.0, settled_clock=settled)
    while not clock.batch_done(1):
        pass
    assert len(waits) == 1 + 2


def test_nothing_timed_is_said():
    with pytest.raises(ValueError, match="ended before"):
        run([1.0])[0].figures()
