import json

import pytest

from gpuopt.memory import FinderResult, ProbeResult, StepTime
from gpuopt.memory.step_time import fit_step_time

GIB = 2**30


def result(largest=100, base=0.05, slope=0.001, is_timed=True, sizes=(2, 40, 100)):
    probes = tuple(
        ProbeResult(n, n * GIB // 10, GIB // 10, None, base + slope * n if is_timed else None)
        for n in sizes
    )
    return FinderResult(largest, True, 11 * GIB, 12 * GIB, 0.05, probes)


def test_the_time_of_a_step_is_fitted():
    time = result().step_time
    assert time.base_seconds == pytest.approx(0.05)
    assert time.seconds_per_sample == pytest.approx(0.001)
    assert time.at(10) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("points", "base", "slope"),
    [
        ([(8, 0.8)], 0.0, 0.1),  # one size alone
        ([(10, 1.0), (20, 2.5)], 0.0, 0.118),  # a base below 0
        ([(10, 1.0), (20, 0.9)], 0.94, 0.0),  # noise only
    ],
)
def test_neither_part_of_the_time_is_below_zero(points, base, slope):
    time = fit_step_time(points)
    assert time.base_seconds == pytest.approx(base, abs=0.02)
    assert time.seconds_per_sample == pytest.approx(slope, abs=0.02)


def test_the_knee_is_the_least_batch_with_nearly_the_full_throughput():
    assert StepTime(0.001, 0.001).knee(0.97, 1000) == 40  # 32.3, to the next multiple of 8
    assert StepTime(1.0, 0.001).knee(0.97, 1000) == 1000
    assert StepTime(0.0, 0.001).knee(0.97, 1000) == 8
    assert result(base=0.001).knee == 40
    assert result(is_timed=False).knee == 100


def test_the_micro_batch_keeps_the_global_batch_exact():
    best = result(largest=100).best_for(256)
    assert (best.micro_batch_size, best.accumulate_grad_batches) == (64, 4)
    assert result(largest=100).best_for(256, 2).micro_batch_size == 64
    assert result(largest=100).best_for(64).micro_batch_size == 64
    assert result(largest=100, is_timed=False).best_for(256).micro_batch_size == 64


def test_a_ragged_window_needs_fewer_micro_batches():
    best = result(largest=100).best_for(256, is_ragged=True)
    assert (best.micro_batch_size, best.accumulate_grad_batches) == (86, 3)
    choice = result(largest=100).choice(86)
    assert (choice.value, choice.evidence) == (86, "measured")
    assert "in 3 probes: 100 fit" in choice.reason
    assert "GiB, 5 % kept free; " in choice.reason


def test_the_result_is_plain_json():
    values = json.loads(json.dumps(result().as_dict()))
    assert values["largest"] == 100
    assert [probe["samples"] for probe in values["probes"]] == [2, 40, 100]
    assert values["peak_bytes"] == 10 * GIB
