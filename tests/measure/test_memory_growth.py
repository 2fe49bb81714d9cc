"""Leak, fragmentation and growth of the host are told apart; clean trainings raise no alarm."""

import numpy as np
import pytest

from gpuopt.measure.memory_growth import MemorySeries, growing

MIB = 2**20
STEPS = 300
DURATION_S = 600.0


def series(*, tensors=0.0, reserved=0.0, host=0.0, on_cuda=True, seed=0, steps=STEPS):
    """Readings of a training that warms up, with so many MiB more in each step."""
    dice = np.random.default_rng(seed)
    step = np.arange(steps)
    warm = 40 * (1 - np.exp(-step / 15))
    given = 900 + warm + tensors * step
    held = 1200 + warm + (tensors + reserved) * step + 2 * (dice.random(steps) < 0.01).cumsum()
    resident = 3000 + 3 * warm + host * step + np.abs(dice.normal(0, 2, steps)).cumsum() / 400
    if not on_cuda:
        given, resident = given + dice.normal(0, 0.1, steps), resident + given
    return MemorySeries(
        time_s=list(step * DURATION_S / steps),
        tensors_bytes=list(given * MIB),
        reserved_bytes=list(held * MIB) if on_cuda else [],
        host_bytes=list(resident * MIB),
        steps=list(step),
    )


def kinds(readings, threshold_mib=20):
    return [one.kind for one in growing(readings, DURATION_S, threshold_mib * MIB)]


@pytest.mark.parametrize("on_cuda", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_no_alarm_in_clean_runs(seed, on_cuda):
    assert kinds(series(seed=seed, on_cuda=on_cuda)) == []


@pytest.mark.parametrize("on_cuda", [True, False])
@pytest.mark.parametrize("each_mib", [0.1, 1.0])
def test_tensors_that_are_never_freed(each_mib, on_cuda):
    readings = series(tensors=each_mib, on_cuda=on_cuda)
    (found,) = growing(readings, DURATION_S, 20 * MIB)
    assert found.kind == "leak"
    assert found.bytes_per_step == pytest.approx(each_mib * MIB, rel=0.1)
    assert found.bytes_per_s == pytest.approx(each_mib * MIB * STEPS / DURATION_S, rel=0.1)
    assert found.p < 0.001


def test_memory_that_is_reserved_and_not_given_out():
    assert kinds(series(reserved=0.3)) == ["fragmentation"]


@pytest.mark.parametrize("on_cuda", [True, False])
def test_memory_of_the_host(on_cuda):
    assert kinds(series(host=0.5, on_cuda=on_cuda)) == ["host"]


@pytest.mark.parametrize("each_mib", [0.0, 0.5])
def test_memory_of_the_loaders_processes(each_mib):
    readings = series()
    readings.loader_bytes = [(500 + each_mib * step) * MIB for step in readings.steps]
    assert kinds(readings) == (["loader"] if each_mib else [])


@pytest.mark.parametrize("on_cuda", [True, False])
def test_tensors_and_host_together(on_cuda):
    assert kinds(series(tensors=1.0, host=2.0, on_cuda=on_cuda)) == ["leak", "host"]


def test_growth_below_the_threshold_is_tolerated():
    readings = series(tensors=0.1)
    assert kinds(readings, threshold_mib=20) == ["leak"]
    assert kinds(readings, threshold_mib=40) == []


def test_a_gap_that_grows_because_less_is_given_out_is_no_fragmentation():
    readings = series()
    readings.tensors_bytes = [value - i * MIB for i, value in enumerate(readings.tensors_bytes)]
    readings.reserved_bytes = [2000.0 * MIB] * STEPS
    assert kinds(readings) == []


def test_too_few_readings_are_no_alarm():
    assert kinds(series(tensors=100.0, steps=6)) == []
    assert MemorySeries().steps_per_s == 0
