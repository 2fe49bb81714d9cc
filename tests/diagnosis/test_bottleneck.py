"""Planted bottlenecks of random severity, alone and together, on a simulated machine."""

import itertools
from dataclasses import replace

import pytest

from gpuopt.diagnosis.bottleneck import KINDS, find_bottlenecks
from gpuopt.diagnosis.remedies import RunSetting
from gpuopt.measure.device_work import DeviceWork
from tests.diagnosis.simulated_machine import (
    PLANTS,
    Training,
    gain_without,
    measure,
    planted,
    step_s,
)

PAIRS = list(itertools.combinations(PLANTS, 2))


def kinds_of(training, seed=0):
    return {one.kind for one in find_bottlenecks(measure(training, seed)).found}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("plants", [(plant,) for plant in PLANTS])
def test_one_plant_is_found_and_nothing_else(plants, seed):
    training = planted(plants, seed)
    assert gain_without(training, plants[0]) > 0.05, "a plant that costs nothing is none"
    assert kinds_of(training, seed) == set(plants)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("plants", PAIRS, ids="+".join)
def test_plants_in_combination(plants, seed):
    training = planted(plants, seed)
    least = {"batch": 0.25}
    costly = {p for p in plants if gain_without(training, p) > least.get(p, 0.1)}
    found = kinds_of(training, seed)
    # The plant's work after its wait is the host's own, where the device is not the limit.
    also = {"host"} if training.in_callback_s and "batch" in plants else set()
    assert costly <= found <= {*plants, *also}, (training, costly)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("is_cuda", [True, False])
def test_a_device_at_its_limit_has_no_bottleneck(seed, is_cuda):
    training = Training(is_cuda=is_cuda, kernels=100 + 20 * seed)
    diagnosis = find_bottlenecks(measure(training, seed))
    assert diagnosis.found == []
    assert diagnosis.verdict.startswith("Computing itself is the limit: forward pass 3")
    assert diagnosis.disturbance is None


def test_on_a_machine_that_is_too_busy_nothing_is_called_the_limit():
    measured = measure(Training(is_cuda=False, kernels=200))
    times = {rung: list(values) for rung, values in measured.parts.rounds_ms.items()}
    usual_ms = 0.98 * min(times["in_memory"])
    times["real"] = [usual_ms] * 2 + [3 * usual_ms] * 6  # seldom undisturbed, so a quarter is not
    parts = replace(measured.parts, rounds_ms=times)
    diagnosis = find_bottlenecks(replace(measured, parts=parts))
    assert diagnosis.found == []
    assert list(diagnosis.unclear) == ["data"]
    assert diagnosis.verdict.startswith("Nothing sure can be said. Perhaps it is the loader")
    assert diagnosis.as_dict()["unclear"]["data"]["low"] <= 0.0


@pytest.mark.parametrize("plant", ["data", "optimizer", "host"])
def test_on_a_cpu_too(plant):
    training = planted((plant,), seed=1, is_cuda=False)
    assert kinds_of(training) == {plant}


@pytest.mark.parametrize("plant", ["data", "host", "optimizer"])
def test_the_gain_is_what_removing_it_really_brings(plant):
    training = planted((plant,), seed=4)
    (found,) = find_bottlenecks(measure(training)).found
    assert found.gain.low <= found.gain.value <= found.gain.high
    assert found.gain.value == pytest.approx(gain_without(training, plant), rel=0.15)


def test_parts_add_up_to_the_step():
    training = planted(("data", "host"), seed=2)
    parts = measure(training).parts
    total_ms = sum(part.value for part in parts.parts_ms().values())
    assert total_ms == pytest.approx(1000 * step_s(training), rel=0.05)
    assert parts.closure_ratio() == pytest.approx(1.0, abs=0.05)


def test_a_machine_that_is_disturbed_is_said_so():
    measured = measure(Training(), noise=0.0)
    times = {name: list(values) for name, values in measured.parts.rounds_ms.items()}
    times["real"] = [value / 2 for value in times["real"]]
    parts = type(measured.parts)(times, measured.parts.samples_per_step)
    diagnosis = find_bottlenecks(type(measured)(parts, 64, 0.5, [1.0]))
    assert "disturbed the machine" in (diagnosis.disturbance or "")


def test_the_verdict_says_what_and_how_much():
    training = planted(("data",), seed=3)
    diagnosis = find_bottlenecks(measure(training), RunSetting(num_workers=0, cpus=16))
    assert diagnosis.verdict.startswith("Training is limited by the loader")
    assert "samples/s" in diagnosis.verdict
    values = diagnosis.as_dict()
    assert values["bottlenecks"][0]["kind"] == "data"
    assert values["bottlenecks"][0]["words"] == KINDS["data"]
    assert values["bottlenecks"][0]["overrides"][0].startswith("num_workers=")
    assert values["steps"]["parts_sum_ratio"] == pytest.approx(1.0, abs=0.05)


def test_lines_of_code_that_wait_are_named():
    measured = measure(planted(("synchronisation",), seed=0))
    places = {"mine/steps.py:12": 1.0}
    work = DeviceWork(measured.work.busy_ms, measured.work.blocked_ms, 1.0, places)
    named = type(measured)(
        measured.parts, 64, 0.5, measured.loads_ms, work=work, quiet_work=measured.quiet_work
    )
    (found,) = find_bottlenecks(named).found
    assert "mine/steps.py:12" in found.evidence
