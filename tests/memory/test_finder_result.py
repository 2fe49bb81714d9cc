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


def test_a_probe_counts_as_the_search_judged_it():
    """A flush of the cache that costs nothing is no thrashing, also where the raw probe is kept."""
    found = result()
    raw = ProbeResult(40, 4 * GIB, thrashed=True)
    assert not found.fits(raw)
    assert found.fits(found.judged(raw))
    unseen = ProbeResult(41, 4 * GIB, thrashed=True)
    assert found.judged(unseen) is unseen


def test_steps_of_a_thrashing_allocator_tell_no_time():
    usual = result()
    slow = ProbeResult(110, 11 * GIB, GIB // 10, None, 5.0, thrashed=True)
    with_slow = FinderResult(100, True, 11 * GIB, 12 * GIB, 0.05, (*usual.probes, slow))
    assert with_slow.step_time == usual.step_time


def test_a_batch_that_fits_by_its_tensors_is_worded_so():
    probe = ProbeResult(100, int(11.8 * GIB), live_bytes=int(11.2 * GIB), seconds_per_step=0.1)
    found = FinderResult(100, True, int(11.6 * GIB), 12 * GIB, 0.03, (probe,))
    assert "measured with up to 11.20 GiB of tensors, of 11.60 GiB" in str(found.choice(100))
    assert "measured up to 10.00 of 11.00 GiB" in str(result().choice(100))
