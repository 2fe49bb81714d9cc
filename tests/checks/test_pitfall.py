from dataclasses import replace

import pytest

from gpuopt.checks.pitfall import find_pitfalls, pageable_loading
from gpuopt.checks.subject import subjects
from gpuopt.hardware import DeviceProcess
from tests.checks.machines import (
    BUILD,
    CARD,
    EMPTY,
    HOST,
    MACHINE,
    preset,
    request,
    with_card,
    with_facts,
)


def seen(machine=MACHINE, build=BUILD, **changes):
    """Return what is found by name."""
    (subject,) = subjects(request(machine, **changes))
    found = find_pitfalls(subject, machine, build)
    assert all("\n" not in str(pitfall) for pitfall in found)
    assert all(pitfall.remedy for pitfall in found)
    return {pitfall.name: pitfall for pitfall in found}


def test_a_machine_in_order_has_none():
    assert seen() == {}
    assert seen(EMPTY) == {}


def test_throttling_is_told_from_a_card_that_works_at_its_power_limit():
    assert seen(with_card(throttle_reasons=["power_cap"])) == {}
    hot = seen(with_card(throttle_reasons=["power_cap", "hardware_thermal"], temperature_c=91.0))
    assert "hardware_thermal at 91 degrees" in hot["throttling"].found
    assert seen(with_card(throttle_reasons=None)) == {}  # not known is no pitfall


def test_a_power_limit_below_the_shipped_one():
    found = seen(with_facts(power_limit_w=100.0))["power cap"]
    assert "100 W of 170 W" in found.found
    assert "nvidia-smi -i 0000:01:00.0 -pl 170" in found.remedy  # its numbers are not CUDA's
    # Where the driver does not tell what was shipped, the preset does.
    assert "power cap" in seen(with_facts(power_limit_w=100.0, power_default_w=None))
    assert seen(with_facts(power_limit_w=None)) == {}


def test_other_processes_are_named_with_what_they_hold():
    held = DeviceProcess(4711, "python", 6 * 2**30)
    found = seen(with_card(memory_used_bytes=7 * 2**30, processes=[held]))["other processes"]
    assert "7.0 of 12.0 GiB of device 0 are taken: python (4711, 6.0 GiB)" in found.found
    assert "gpu.memory_limit_mib=5120" in found.remedy
    silent = seen(with_card(memory_used_bytes=7 * 2**30, processes=None))["other processes"]
    assert "by whom the driver does not tell" in silent.found
    assert seen(with_card(memory_used_bytes=2**28)) == {}  # what the driver reserves


def test_memory_that_windows_spills_to_the_host():
    machine = replace(MACHINE, host=replace(HOST, is_wsl=True))
    assert "gpu.memory_limit_mib=11304" in seen(machine)["WSL spill"].remedy
    assert seen(replace(EMPTY, host=replace(HOST, is_wsl=True))) == {}  # no card, no spill


def test_a_build_without_code_for_the_card():
    old = replace(BUILD, arch_list=("sm_90",))
    assert (
        "the RTX 3060 12GB is sm_86"
        in seen(build=old)["wheel without the card's architecture"].found
    )
    assert "wheel without the card's architecture" in seen(EMPTY, old, gpu=preset("rtx4090"))
    assert seen(build=replace(BUILD, arch_list=None)) == {}  # not asked
    assert seen(EMPTY, old) == {}  # the processors need no code for cards


def test_a_build_without_cuda_matters_where_a_card_is():
    plain = replace(BUILD, cuda=None, arch_list=())
    assert list(seen(build=plain)) == ["PyTorch without CUDA"]
    assert seen(EMPTY, plain, gpu=preset("rtx4090")) == {}


@pytest.mark.parametrize(("driver", "fits"), [("12.8", False), ("13.0", True), ("13.2", True)])
def test_a_driver_older_than_the_builds_cuda(driver, fits):
    machine = replace(MACHINE, driver="570.1", driver_cuda=driver)
    found = seen(machine)
    assert (found == {}) is fits
    if not fits:
        assert "580 or later" in found["driver too old"].remedy


def test_few_processors_under_a_limit_and_on_a_small_machine():
    limited = replace(MACHINE, host=replace(HOST, cpus=2, machine_cpus=64))
    found = seen(limited)["few CPUs"]
    assert "2 of 64 CPUs, 4 loaders feed this card" in found.found
    assert "--cpus" in found.remedy
    small = replace(MACHINE, host=replace(HOST, cpus=2, machine_cpus=2))
    assert "data.cache=auto" in seen(small)["few CPUs"].remedy
    assert "few CPUs" in seen(replace(EMPTY, host=replace(HOST, cpus=2)))


def test_little_shared_memory():
    host = replace(HOST, full_shared_memory="/dev/shm holds 64 MiB, 2 MiB are free")
    assert "--shm-size" in seen(replace(MACHINE, host=host))["little shared memory"].remedy


def test_a_narrow_link_and_memory_errors():
    assert "8 of 16 lanes" in seen(with_facts(pcie_width=8))["narrow PCIe link"].found
    assert "counts 3 uncorrected" in seen(with_card(ecc_uncorrected=3))["memory errors"].found
    assert seen(with_card(ecc_uncorrected=0)) == {}


def test_cards_without_a_driver_and_cards_that_are_hidden():
    bare = replace(EMPTY, host=replace(HOST, cards_on_bus=2))
    assert "2 NVIDIA card(s) are plugged in" in seen(bare)["no driver"].found
    hidden = replace(EMPTY, driver="580", cards_of_driver=4, host=replace(HOST, visible_devices=""))
    assert "CUDA shows 0 of 4 cards" in seen(hidden)["hidden cards"].found
    assert seen(replace(MACHINE, cards=(CARD,), cards_of_driver=1)) == {}


def test_an_absent_card_is_not_blamed_for_this_machine():
    wrong = replace(
        with_card(throttle_reasons=["hardware_thermal"]), host=replace(HOST, is_wsl=True)
    )
    assert seen(wrong, gpu=preset("rtx4090")) == {}


def test_pageable_loading_is_judged_by_what_was_measured():
    assert pageable_loading(24.0, 23.0) is None
    found = pageable_loading(24.0, 6.0)
    assert found is not None
    assert "pin_memory=true" in str(found)
    assert "6.0 GB/s" in str(found)
