"""An allocator that gives back its cache step after step is taken for a failure to come."""

import logging

import pytest

from gpuopt.callbacks import AdaptiveBatchSize, OomRecovery
from gpuopt.steps.thrash_watch import ThrashWatch
from tests.callbacks.memory_faults import FakeMeter, difference, fit, metered


def events(recovery):
    return [(e["event"], e["step"], e["samples"], e["micro_batch_size"]) for e in recovery.events]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_steps_in_a_row_halve_the_size_before_memory_runs_out(accumulate, caplog):
    at = {1: (1, 2), 2: (1, 2, 3)}[accumulate]  # in steps 1 and 2; in steps 0 and 1
    meter = FakeMeter(total=100, retries_at=at)
    recovery = OomRecovery(meter=meter)
    options = {"accumulate_grad_batches": accumulate, "validates": False}
    with caplog.at_level(logging.INFO, "gpuopt"):
        run = fit(recovery, kind=metered(meter), **options)
    assert events(recovery) == [("thrash", 3 - accumulate, 10, 5)]
    assert "give back its cache in two steps in a row (thrash)" in caplog.text
    assert max(run[0].parts[-3:]) == 5
    assert difference(fit(**options), run) < 1e-12


@pytest.mark.parametrize("at", [(1, 3), (1, 3, 5, 7), ()])
def test_single_steps_do_not(at):
    recovery = OomRecovery(meter=(meter := FakeMeter(retries_at=at)))
    fit(recovery, kind=metered(meter), validates=False)
    assert recovery.events == []


def test_a_step_that_ran_out_of_memory_is_counted_by_itself():
    def fill(meter):
        meter.other = 55

    meter = FakeMeter(retries_at=(1, 2, 3))
    recovery = OomRecovery(meter=meter)
    fit(recovery, kind=metered(meter, {2: fill}), validates=False)
    assert [kind for kind, *_ in events(recovery)] == ["out_of_memory"]


def test_a_single_sample_cannot_be_halved():
    meter = FakeMeter(retries_at=range(10))
    recovery = OomRecovery(meter=meter)
    fit(recovery, kind=metered(meter), validates=False)
    assert [event[2:] for event in events(recovery)] == [(10, 5), (5, 3), (3, 2), (2, 1)]


def test_it_counts_steps_in_a_row():
    meter = FakeMeter()
    watch = ThrashWatch(meter)
    found = []
    for flushes in (0, 1, 0, 1, 1, 1, 1, 0):
        meter.flushes += flushes
        found.append(watch.is_thrashing())
    assert found == [False, False, False, False, True, False, True, False]


@pytest.mark.parametrize("others", [[], [OomRecovery]])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_step_that_thrashes_is_relieved_of_its_own_size_and_not_adapted(others, is_first):
    """Without the thrash of steps 0 and 1 the size would grow from 5 to 10 after step 1."""
    meter = FakeMeter(total=100, retries_at=(0, 1))
    adaptive = AdaptiveBatchSize(initial=5, meter=meter)
    recovery = [kind(meter=meter) for kind in others]
    callbacks = [adaptive, *recovery] if is_first else [*recovery, adaptive]
    fit(*callbacks, kind=metered(meter), validates=False, max_epochs=1)
    found = sorted((e for c in callbacks for e in events(c)), key=lambda event: event[1])
    assert found[0][0] == "thrash"
    assert found[0][2:] == (5, 3)
    assert not [event for event in found[1:] if event[1] == found[0][1]]
