import pytest

from gpuopt.hardware import DeviceReading
from gpuopt.telemetry.throttling import ThrottleClock


def seconds_after(*readings):
    """Feed (moment, reasons, counters); return what the last one gives."""
    clock, seconds = ThrottleClock(), {}
    for at_s, reasons, counters in readings:
        reading = DeviceReading(0, throttle_reasons=reasons, violation_s=counters)
        seconds = clock.add(reading, at_s)
    return seconds


def test_a_reason_gets_half_of_the_time_for_each_reading_that_shows_it():
    steps = (0.0, ["power_cap"], None), (1.0, ["power_cap", "sync_boost"], None)
    assert seconds_after(*steps) == {"power_cap": 1.0, "sync_boost": 0.5}
    assert seconds_after(*steps, (4.0, [], None)) == {"power_cap": 2.5, "sync_boost": 2.0}


def test_a_clock_that_nothing_held_down_has_no_reason():
    assert seconds_after((0.0, [], {"power_cap": 9.0}), (5.0, [], {"power_cap": 9.0})) == {}


def test_a_counter_counts_where_there_is_one():
    """Short throttling falls between two readings, and is counted all the same."""
    first = (0.0, ["power_cap"], {"power_cap": 100.0, "power_brake": 0.0})
    second = (1.0, ["power_cap", "hardware_slowdown"], {"power_cap": 100.2, "power_brake": 0.1})
    seconds = seconds_after(first, second)
    expected = {"power_cap": 0.2, "power_brake": 0.1, "hardware_slowdown": 0.5}
    assert seconds == pytest.approx(expected)


def test_a_counter_that_was_reset_or_is_absurd_is_not_believed():
    first, second = (0.0, [], {"power_cap": 50.0}), (1.0, [], {"power_cap": 0.5})
    assert seconds_after(first, second) == {}
    later = (2.0, [], {"power_cap": 0.75})
    assert seconds_after(first, second, later) == {"power_cap": 0.25}
    assert seconds_after((0.0, [], {"power_cap": 0.0}), (2.0, [], {"power_cap": 9e9})) == {
        "power_cap": 2.0
    }


def test_a_counter_that_appears_later_is_counted_from_then_on():
    steps = (0.0, ["power_cap"], None), (2.0, ["power_cap"], {"power_cap": 70.0})
    assert seconds_after(*steps) == {"power_cap": 2.0}
    assert seconds_after(*steps, (4.0, ["power_cap"], {"power_cap": 71.0})) == {"power_cap": 3.0}


def test_time_without_a_reading_counts_for_no_reason():
    lost = (1.0, None, None), (9.0, ["power_cap"], None)
    assert seconds_after((0.0, ["power_cap"], None), *lost) == {}
    assert seconds_after(*lost, (10.0, ["power_cap"], None)) == {"power_cap": 1.0}
