from dataclasses import asdict

import pytest

from gpuopt.errors import InputError
from gpuopt.finding.route import choose_route
from gpuopt.hardware import AbsentGpu, DriverDevice, load_catalogue
from gpuopt.schema import CONF_DIR

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
H200 = DriverDevice(0, "NVIDIA H200", 143771 * 2**20, 132, 9, 0)
RTX3060 = DriverDevice(1, "NVIDIA GeForce RTX 3060", 12288 * 2**20, 28, 8, 6)
SMALL_3060 = DriverDevice(2, "NVIDIA GeForce RTX 3060", 8192 * 2**20, 28, 8, 6)


def preset(name="auto", **values):
    known = {k: v for k, v in asdict(CATALOGUE[name]).items() if k != "seed"}
    return AbsentGpu(**{**known, **values})


def route(gpu, present=(), gpu_ids=None, count=1):
    return choose_route(gpu, present, gpu_ids, count)


def test_the_card_that_is_there_is_measured():
    found = route(preset(), [H200, RTX3060])
    assert (found.kind, found.devices) == ("measure", (H200,))
    found = route(preset(), [H200, RTX3060], count=2)
    assert found.devices == (H200, RTX3060)


def test_a_named_card_is_measured_only_where_it_is():
    assert route(preset("rtx3060"), [H200, RTX3060]).devices == (RTX3060,)
    assert route(preset("rtx3060_8gb"), [RTX3060, SMALL_3060]).devices == (SMALL_3060,)
    found = route(preset("rtx4090"), [H200])
    assert (found.kind, found.devices) == ("predict", ())
    assert "RTX 4090" in found.reason
    assert "NVIDIA H200" in found.reason
    assert route(preset("rtx3060"), []).kind == "predict"
    assert route(preset("rtx3060"), [RTX3060], count=2).kind == "predict"


def test_a_memory_alone_is_predicted_and_a_limit_caps_what_is_there():
    assert route(preset(memory_gib=6), [H200]).kind == "predict"
    assert route(preset(memory_mib=6144), [H200]).kind == "predict"
    capped = route(preset(memory_limit_mib=6144), [H200])
    assert (capped.kind, capped.devices) == ("measure", (H200,))
    assert "capped to 6144 MiB" in capped.reason
    assert route(preset(memory_limit_mib=6144)).kind == "predict"


def test_without_a_card_the_cpu_is_what_there_is():
    assert route(preset()).kind == "cpu"
    assert route(preset("cpu"), [H200]).kind == "cpu"


def test_devices_are_measured_by_number():
    assert route(preset(), [H200, RTX3060], [1]).devices == (RTX3060,)
    assert route(preset(), [H200, RTX3060], [1, 0], count=2).devices == (RTX3060, H200)
    assert route(preset("rtx3060"), [H200, RTX3060], [1]).devices == (RTX3060,)


@pytest.mark.parametrize(
    ("gpu", "present", "gpu_ids", "count", "message"),
    [
        (preset(), [H200], [3], 1, r"no CUDA device 3 here: NVIDIA H200"),
        (preset("rtx3060"), [H200], [0], 1, r"no RTX 3060 12GB 0 here"),
        (preset(), [], [0], 1, r"gpu_ids=\[0\] are devices .* no NVIDIA GPU was found"),
        (preset("cpu"), [H200], [0], 1, r"the CPU was asked for"),
        (preset(memory_gib=6), [H200], [0], 1, r"known by its memory alone"),
        (preset(), [H200], None, 2, r"trainer.devices=2: this machine has NVIDIA H200"),
    ],
)
def test_devices_that_are_not_there_are_refused(gpu, present, gpu_ids, count, message):
    with pytest.raises(InputError, match=message):
        route(gpu, present, gpu_ids, count)
