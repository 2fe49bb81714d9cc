import pytest

from gpuopt.diagnosis.throttle import REASONS, throttling_of
from gpuopt.hardware import DeviceReading
from gpuopt.hardware.nvml import NvmlDevice
from gpuopt.telemetry.sample import Sample
from gpuopt.telemetry.sampler import Sampler


def sample(time_s, throttled=None, *, clock=1500, busy=0.9, **values):
    reading = DeviceReading(
        0,
        "Stand-in",
        utilisation_ratio=busy,
        sm_clock_mhz=clock,
        sm_clock_limit_mhz=2000,
        temperature_c=70.0 + time_s,
        power_w=300.0,
        power_limit_w=350.0,
        **values,
    )
    return Sample(time_s, (reading,), throttled_s={0: throttled or {}})


def test_seconds_by_reason_and_the_lost_clock():
    samples = [sample(0, {"power_cap": 1.0}), sample(5), sample(10, {"power_cap": 7.0})]
    (device,) = throttling_of(samples).devices
    assert device.seconds == {"power_cap": 6.0}
    assert device.watched_s == 10
    assert device.lost_clock == pytest.approx(0.25)
    assert device.warmest_c == 80
    assert device.busy_share == 1.0


def test_what_is_normal_is_said_to_be():
    found = throttling_of([sample(0), sample(10, {"power_cap": 9.0})])
    assert found.verdict == "What holds the clock down is normal."
    assert found.devices[0].troubles() == []
    assert found.as_dict()["devices"][0]["reasons"]["power_cap"]["is_normal"]


def test_what_is_not_normal_comes_first():
    found = throttling_of([sample(0), sample(10, {"power_cap": 9.0, "software_thermal": 2.0})])
    assert found.verdict.startswith("GPU 0 is held down: software_thermal, too warm")
    assert found.devices[0].troubles() == ["software_thermal"]


def test_a_moment_is_no_finding():
    found = throttling_of([sample(0), sample(1000, {"hardware_thermal": 0.5})])
    assert found.devices[0].troubles() == []


def test_nothing_holds_it_down():
    assert throttling_of([sample(0), sample(9)]).verdict == "Nothing holds the clock down."


def test_of_an_idle_card_the_clock_says_nothing():
    found = throttling_of([sample(0, busy=0.0, clock=210), sample(9, busy=0.1, clock=210)])
    assert found.devices[0].lost_clock is None
    assert "idle" in found.verdict


def test_unknown_fields_are_unknown():
    bare = [Sample(t, (DeviceReading(0),)) for t in (0.0, 9.0)]
    (device,) = throttling_of(bare).devices
    assert (device.clock_mhz, device.lost_clock, device.warmest_c, device.power_w) == (None,) * 4
    assert device.busy_share is None


def test_an_unknown_reason_is_no_normal_one():
    found = throttling_of([sample(0), sample(9, {"new_word": 5.0})])
    assert "no words" in found.verdict


def test_every_reason_of_nvml_has_a_meaning():
    import gpuopt.hardware.nvml as nvml

    assert {*nvml._THROTTLE_WORDS.values(), *nvml._VIOLATIONS.values()} <= set(REASONS)
    assert NvmlDevice  # whose readings these are


def test_the_samples_of_a_sampler():
    class Hot:
        index = 0

        def read(self):
            return DeviceReading(0, throttle_reasons=["software_thermal"], utilisation_ratio=1.0)

    ticks = iter(range(100))
    sampler = Sampler([Hot()], 1.0, clock=lambda: float(next(ticks)))
    for _ in range(4):
        sampler.take()
    (device,) = throttling_of(sampler.history()).devices
    assert device.seconds["software_thermal"] > 2
