"""What people are told: units, limits, and n/a for what is unavailable, never 0."""

import re
import time

import pytest

from gpuopt.hardware import DeviceProcess
from gpuopt.telemetry import HostReading, Sample
from gpuopt.telemetry.figures import (
    device_figures,
    device_title,
    host_figures,
    shown_devices,
    sparkline,
    time_text,
    training_figures,
)
from tests.telemetry.samples import card, sample


def words(figures):
    return {figure.label: figure.text for figure in figures}


def test_a_device_of_which_everything_is_known():
    taken = sample()
    assert words(device_figures(taken.devices[0], taken)) == {
        "utilisation": "75 %",
        "memory": "60.0 / 80.0 GiB",
        "power": "512 / 700 W",
        "temperature": "61 °C",
        "SM clock": "1830 / 1980 MHz",
        "energy": "2.00 Wh",
        "throttled": "power_cap 12 s (now)",
        "processes": "python train.py (4711) 59.0 GiB",
    }
    assert device_title(taken.devices[0], taken) == "GPU 0  NVIDIA H100 80GB HBM3"


def test_a_device_of_which_nothing_is_known():
    taken = sample(0, card(3), used_j={}, throttled_s={})
    assert set(words(device_figures(taken.devices[0], taken)).values()) == {"n/a"}
    assert device_title(taken.devices[0], taken) == "GPU 3  n/a"


def test_no_device_is_shown_as_one_without_values():
    taken = Sample(0.0)
    (reading,) = shown_devices(taken)
    assert device_title(reading, taken) == "no GPU"
    assert set(words(device_figures(reading, taken)).values()) == {"n/a"}
    assert words(host_figures(taken.host)) == {"CPU": "n/a", "memory": "n/a"}


def test_a_limit_that_is_unknown_is_left_out():
    taken = sample(0, card(power_w=90.4, memory_used_bytes=2**30), used_j={0: 12.4})
    found = words(device_figures(taken.devices[0], taken))
    assert (found["power"], found["memory"], found["energy"]) == ("90 W", "1.0 GiB", "12 J")


def test_reasons_of_the_past_and_of_now():
    taken = sample(0, card(throttle_reasons=["b"]), throttled_s={0: {"a": 3.4}})
    assert words(device_figures(taken.devices[0], taken))["throttled"] == "a 3 s, b 0 s (now)"
    calm = sample(0, card(throttle_reasons=[]), throttled_s={})
    assert words(device_figures(calm.devices[0], calm))["throttled"] == "no"


def test_processes_that_are_none_or_unknown():
    processes = [DeviceProcess(8, None, None), DeviceProcess(9, "b", 2**30)]
    for listed, expected in (
        (processes, "n/a (8) n/a, b (9) 1.0 GiB"),
        ([], "none"),
        (None, "n/a"),
    ):
        taken = sample(0, card(processes=listed))
        assert words(device_figures(taken.devices[0], taken))["processes"] == expected


def test_a_log_of_another_day_says_so():
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", time_text(sample()))
    assert re.fullmatch(r"\d\d:\d\d:\d\d", time_text(sample(time_s=time.time())))


def test_names_cannot_move_the_cursor():
    taken = sample(0, card(name="\x1b[31mred\n"), training={"a\x1b[2J": 1.0})
    assert "\x1b" not in device_title(taken.devices[0], taken)
    assert "\n" not in device_title(taken.devices[0], taken)
    assert "\x1b" not in training_figures(taken)[0].label


def test_the_machine():
    assert words(host_figures(HostReading(0.255, 3 * 2**30, 8 * 2**30))) == {
        "CPU": "26 %",
        "memory": "3.0 / 8.0 GiB",
    }


@pytest.mark.parametrize(
    ("values", "width", "ceiling", "line"),
    [
        ([0, 0.5, 1], 3, 1, "▁▅█"),
        ([0, 0.5, 1], 5, 1, "  ▁▅█"),
        ([9, 9, 0, 0.5, 1], 3, 1, "▁▅█"),
        ([0, None, 1], 3, 1, "▁ █"),
        ([5, 10], 2, None, "▁█"),
        ([7, 7], 2, None, "▅▅"),
        ([2, -1], 2, 1, "█▁"),
        ([None], 3, 1, "   "),
        ([1], 0, 1, ""),
        ([1], -3, 1, ""),
    ],
)
def test_a_history_is_a_line_of_blocks(values, width, ceiling, line):
    assert sparkline(values, width, ceiling) == line
