"""A sample outlives being written and read; what is read may come from anybody."""

import json
from dataclasses import fields

import pytest

from gpuopt.hardware import DeviceProcess, DeviceReading
from gpuopt.telemetry import HostReading, Sample
from gpuopt.telemetry.record import SCHEMA, from_record, to_record
from tests.telemetry.samples import FULL, card, sample


def there_and_back(taken):
    return from_record(json.loads(json.dumps(to_record(taken), allow_nan=False)))


def test_everything_comes_back():
    assert {field.name for field in fields(DeviceReading)} == {"index", *FULL}
    taken = sample(3, card(0, **FULL), card(7, power_w=1.5))
    assert there_and_back(taken) == taken


def test_nothing_comes_back_as_nothing():
    taken = Sample(5.0, (card(2),), HostReading())
    back = there_and_back(taken)
    assert back == taken
    assert back.devices[0].throttle_reasons is None
    record = to_record(taken)
    assert record["schema"] == SCHEMA
    assert record["devices"][0]["power_w"] is None


def test_halves_of_characters_are_spelled_out():
    """JSON can escape them, and nothing that is shown or sent can hold them."""
    half = "\ud800"
    process = DeviceProcess(7, half)
    known = {"name": f"a{half}", "throttle_reasons": [half], "processes": [process]}
    back = there_and_back(sample(0, card(**known), training={half: 1.0}))
    (reading,) = back.devices
    assert reading.name == "a\\ud800"
    assert reading.throttle_reasons == ["\\ud800"]
    assert reading.processes == [DeviceProcess(7, "\\ud800")]
    assert back.training == {"\\ud800": 1.0}


def test_what_is_not_finite_is_unavailable():
    taken = sample(0, card(power_w=float("nan")), training={"train/loss": float("inf")})
    back = there_and_back(taken)
    assert back.devices[0].power_w is None
    assert back.training == {}


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"schema": 2, "time_s": 5.0},
        {"schema": 1},
        {"schema": 1, "time_s": True},
        {"schema": 1, "time_s": "5"},
        {"schema": 1, "time_s": -1},
        {"schema": 1, "time_s": 1e15},
        {"schema": 1, "time_s": float("nan")},
        {"schema": 1, "time_s": 5, "devices": [{}]},
        {"schema": 1, "time_s": 5, "devices": ["gpu"]},
        {"schema": 1, "time_s": 5, "devices": [{"index": 0.5}]},
        {"schema": 1, "time_s": 5, "devices": [{"index": -1}]},
        {"schema": 1, "time_s": 5, "devices": [{"index": 0}, {"index": 0}]},
    ],
)
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match=r"no record|no time|device"):
        from_record(record)


def test_wrong_values_and_unknown_keys_are_left_out():
    record = to_record(sample())
    record["devices"][0] |= {
        "power_w": "much",
        "sm_clock_mhz": 10**400,
        "name": 5,
        "processes": [{"pid": "x"}, 7, {"pid": 8, "name": "a", "more": 1}],
        "violation_s": [1],
        "novelty": 1,
    }
    record |= {"host": 3, "throttled_s": {"a": {}, "0": {"b": "c"}, "1": 5}, "used_j": None}
    record["number"] = 1.5
    back = from_record(record)
    (reading,) = back.devices
    assert (reading.power_w, reading.sm_clock_mhz, reading.name) == (None, None, None)
    assert [process.pid for process in reading.processes] == [8]
    assert reading.violation_s is None
    assert (back.host, back.used_j, back.number) == (HostReading(), {}, 0)
    assert back.throttled_s == {0: {}, 1: {}}
