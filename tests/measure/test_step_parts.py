import math

import pytest

from gpuopt.measure.step_parts import LADDER, PARTS, StepParts

MS = dict(zip(LADDER, (100, 70, 66, 64, 60, 50, 20, 1), strict=True))


def parts_of(rungs=MS, rounds=5, jitter=()):
    times = {rung: [float(ms)] * rounds for rung, ms in rungs.items()}
    for rung, position, ms in jitter:
        times[rung][position] = ms
    return StepParts(times, 64)


def test_each_part_is_what_two_rungs_differ_by():
    parts = parts_of().parts_ms()
    assert {name: part.value for name, part in parts.items()} == {
        "data wait": 30,
        "copy to the device": 4,
        "batch preparation": 2,
        "callbacks": 4,
        "optimizer": 10,
        "backward": 30,
        "forward": 19,
        "loop": 1,
    }
    assert sum(part.value for part in parts.values()) == 100
    assert set(parts) == {*PARTS, "loop"}


def test_a_missing_rung_leaves_its_part_out():
    rungs = {rung: ms for rung, ms in MS.items() if rung != "on_device"}
    parts = parts_of(rungs).parts_ms()
    assert "copy to the device" not in parts
    assert parts["batch preparation"].value == 6


def test_noise_makes_no_part_negative_and_the_parts_still_add_up():
    parts = parts_of({**MS, "in_memory": 104})
    values = [part.value for part in parts.parts_ms().values()]
    assert min(values) >= 0
    assert sum(values) == pytest.approx(parts.step_ms.value)
    assert parts.closure_ratio() == pytest.approx(1.02)


def test_a_disturbed_round_does_not_count():
    parts = parts_of(rounds=8, jitter=[("real", 3, 900.0), ("quiet", 5, 700.0)])
    assert parts.step_ms.value == 100
    assert parts.parts_ms()["callbacks"].value == 4


def test_the_interval_is_as_wide_as_the_rounds_differ():
    steady = parts_of(rounds=8)
    assert steady.step_ms.low == steady.step_ms.high == 100
    shaky = parts_of(rounds=8, jitter=[("real", i, 100.0 + 5 * i) for i in range(8)])
    assert shaky.step_ms.low < shaky.step_ms.value < shaky.step_ms.high


def test_the_gain_of_removing_something():
    parts = parts_of()
    assert parts.gain_of({"real": 1, "in_memory": -1}).value == pytest.approx(100 / 70 - 1)
    assert parts.gain_of({"real": 1, "in_memory": -1}, less_ms=10).value == pytest.approx(0.25)
    assert parts.gain_of({"real": 1, "in_memory": -1}, most_ms=20).value == pytest.approx(0.25)
    assert parts.gain_of({"in_memory": 1, "real": -1}).value == 0
    assert math.isfinite(parts.gain_of({"real": 2}).value)


def test_throughput_and_plain_values():
    parts = parts_of()
    assert parts.samples_per_second == pytest.approx(640)
    values = parts.as_dict()
    assert values["parts_sum_ratio"] == pytest.approx(1.0)
    assert values["rounds_ms"]["real"] == [100.0] * 5
