import pytest

from gpuopt.hardware import DeviceReading
from gpuopt.telemetry.energy import EnergyMeter


def fed(*readings, kept=100):
    """Feed (moment, counter, power); return the meter and what each reading gave."""
    meter = EnergyMeter(kept)
    given = [meter.add(DeviceReading(0, energy_j=j, power_w=w), at) for at, j, w in readings]
    return meter, given


def test_the_counter_counts_and_not_the_power():
    _, given = fed((0.0, 5000.0, 1.0), (1.0, 5300.0, 1.0), (3.0, 6000.0, 1.0))
    assert given == [None, 300.0, 1000.0]


def test_power_is_integrated_where_there_is_no_counter():
    _, given = fed((0.0, None, 100.0), (1.0, None, 300.0), (3.0, None, 300.0))
    assert given == [None, 200.0, 800.0]


def test_what_tells_nothing_is_unknown_and_never_zero():
    meter, given = fed((0.0, None, None), (1.0, None, None))
    assert given == [None, None]
    assert meter.between(0.0, 1.0) is None


def test_a_counter_that_is_reset_gives_way_to_the_power():
    _, given = fed((0.0, 900.0, 100.0), (1.0, 20.0, 100.0), (2.0, 170.0, 100.0))
    assert given == [None, 100.0, 250.0]


def test_a_counter_knows_of_a_gap_and_the_power_does_not():
    meter, given = fed((0.0, 100.0, None), (1.0, None, None), (2.0, 300.0, None))
    assert given == [None, None, 200.0]
    assert meter.between(0.0, 2.0) == 200.0
    readings = (0.0, None, 50.0), (1.0, None, 50.0), (2.0, None, None), (3.0, None, 50.0)
    meter, given = fed(*readings, (4.0, None, 50.0))
    assert given == [None, 50.0, None, None, 100.0]
    assert meter.between(0.0, 4.0) is None
    assert meter.between(3.0, 4.0) == 50.0


def test_a_stretch_lies_between_readings():
    meter, _ = fed((0.0, 0.0, None), (1.0, 100.0, None), (2.0, 400.0, None))
    assert meter.between(0.0, 2.0) == 400.0
    assert meter.between(1.0, 1.0) == 0.0
    assert meter.between(0.5, 1.5) == pytest.approx(50.0 + 150.0)
    for began, ended in ((-0.1, 1.0), (1.0, 2.1)):
        assert meter.between(began, ended) is None


def test_old_readings_are_forgotten():
    meter, _ = fed(*((float(i), 10.0 * i, None) for i in range(100)), kept=3)
    assert meter.between(97.0, 99.0) == 20.0
    assert meter.between(90.0, 99.0) is None
