from pathlib import Path
from types import SimpleNamespace

import pytest

from gpuopt.hardware import load_catalogue, profile_from_device

CATALOGUE = load_catalogue(Path(__file__).parents[2] / "conf" / "gpu")


def properties(name="Future card", capability=(8, 6), sms=28, clock_mhz=1777, **changes):
    values = {
        "name": name,
        "total_memory": 12_000 * 2**20,
        "multi_processor_count": sms,
        "major": capability[0],
        "minor": capability[1],
        "clock_rate": clock_mhz * 1000,
        "memory_clock_rate": 7_501_000,
        "memory_bus_width": 192,
    }
    return SimpleNamespace(**(values | changes))


@pytest.mark.parametrize(
    ("stem", "clock_mhz"),
    [
        ("gtx1660ti", 1770),
        ("rtx2060", 1680),
        ("t4", 1590),
        ("v100", 1530),
        ("a100", 1410),
        ("rtx3060", 1777),
        ("rtx4090", 2520),
        ("l4", 2040),
        ("h100", 1830),
        ("rtx5090", 2407),
    ],
)
def test_rates_from_units_and_clock_agree_with_the_data_sheets(stem, clock_mhz):
    listed = CATALOGUE[stem]
    major, minor = map(int, listed.compute_capability.split("."))
    seen = properties(listed.nvml_name, (major, minor), listed.sm_count, clock_mhz)
    profile = profile_from_device(seen)
    assert profile.architecture == listed.architecture
    assert profile.fp32_tflops == pytest.approx(listed.fp32_tflops, rel=0.08)
    if listed.tensor_tflops is None:
        assert profile.tensor_tflops is None
    else:
        assert profile.tensor_tflops == pytest.approx(listed.tensor_tflops, rel=0.05)
    same = ("precision", "bf16_native", "fp8", "compute_capability", "sm_count")
    assert all(vars(profile)[key] == vars(listed)[key] for key in same)
    profile.check()


def test_bandwidth_comes_from_clock_and_bus():
    assert profile_from_device(properties()).memory_bandwidth_gb_per_s == pytest.approx(360, 0.01)


@pytest.mark.parametrize("missing", ["clock_rate", "memory_clock_rate", "memory_bus_width"])
def test_what_cuda_does_not_report_stays_unknown(missing):
    without = properties()
    delattr(without, missing)
    profile = profile_from_device(without)
    rate_is_known = missing != "clock_rate"
    assert (profile.tensor_tflops is not None) == rate_is_known
    assert (profile.memory_bandwidth_gb_per_s is not None) == (not rate_is_known)
    profile.check()


def test_an_unheard_of_generation_gets_no_invented_rate():
    profile = profile_from_device(properties(capability=(13, 0)))
    assert profile.architecture is None
    assert profile.tensor_tflops is None
    assert profile.precision == "bf16"
    assert profile.memory_mib == 12_000
    profile.check()


def test_a_newer_minor_version_counts_as_its_major_one():
    assert profile_from_device(properties(capability=(12, 1))).architecture == "Blackwell"
