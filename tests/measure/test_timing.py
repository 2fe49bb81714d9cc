import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpuopt.errors
from gpuopt.measure import Instant, Segment, StepTimer, Stopwatch


class Machine:
    """A host's clock, and a device that does its queued work in its own time."""

    def __init__(self):
        self.now = 100.0
        self.free_at = 0.0
        self.waits = 0

    def clock(self):
        return self.now

    def queue(self, work_s):
        self.free_at = max(self.free_at, self.now) + work_s

    def synchronize(self):
        self.waits += 1
        self.now = max(self.now, self.free_at)

    def mark(self):
        return Passed(self)


class Passed:
    """A mark behind everything that was queued before it."""

    def __init__(self, machine):
        self.machine = machine
        self.at = max(machine.now, machine.free_at)

    def is_reached(self):
        return self.machine.now >= self.at

    def seconds_since(self, earlier):
        self.machine.now = max(self.machine.now, self.at)
        self.machine.waits += 1
        return self.at - earlier.at


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def timer(machine):
    return StepTimer(machine.mark, machine.clock)


def steps(timer, machine, count, samples=32):
    for _ in range(count):
        machine.now += 0.25
        timer.batch_ready()
        machine.now += 0.125
        machine.queue(1.0)
        timer.batch_done(samples)


def test_a_segment_holds_queued_work_and_nobody_waits_for_it(machine, timer):
    machine.queue(50.0)  # work from before the segment does not count
    timer.begin()
    steps(timer, machine, 8)
    timed = timer.end()
    assert machine.now == 103.0
    assert machine.waits == 0
    assert not timed.is_finished
    machine.now = 158.0
    assert timed.is_finished
    segment = timed.segment()
    assert (segment.steps, segment.samples) == (8, 256)
    assert segment.duration_s == 8.0
    assert segment.samples_per_second == 32.0
    assert segment.step_ms == 1000.0
    assert segment.data_wait_ratio == 0.25


def test_asking_for_the_figures_too_early_waits(machine, timer):
    timer.begin()
    steps(timer, machine, 8)
    timed = timer.end()
    assert timed.segment().duration_s == pytest.approx(8.375)
    assert timed.is_finished
    assert machine.waits == 1


def test_what_lies_between_segments_is_left_out(machine, timer):
    timer.begin()
    steps(timer, machine, 2)
    first = timer.end().segment()
    machine.now += 1000
    assert not timer.is_running
    timer.begin()
    assert timer.is_running
    steps(timer, machine, 2)
    assert timer.end().segment() == first


def test_a_step_of_several_batches_is_one_step(machine, timer):
    timer.begin()
    for ends_step in (False, True, False, True):
        machine.now += 1.0
        timer.batch_done(16, ends_step=ends_step)
    segment = timer.end().segment()
    assert (segment.steps, segment.samples, segment.step_ms) == (2, 64, 2000.0)


def test_an_empty_segment_has_no_rates(timer):
    timer.begin()
    segment = timer.end().segment()
    assert (segment.samples_per_second, segment.step_ms, segment.data_wait_ratio) == (0, 0, 0)


def test_the_loop_never_waits_more_than_all_the_time():
    assert Segment(duration_s=1.0, data_wait_s=1.25, steps=1, samples=1).data_wait_ratio == 1.0


def test_an_instant_is_in_the_past_and_counts_the_hosts_time(machine):
    early = Instant(machine.clock)
    machine.now += 3.0
    late = Instant(machine.clock)
    assert late.is_reached()
    assert late.seconds_since(early) == 3.0


def test_ending_without_beginning_is_an_error():
    with pytest.raises(RuntimeError, match="begin"):
        StepTimer().end()


def test_a_stopwatch_waits_for_the_device_at_both_edges(machine):
    machine.queue(5.0)
    with Stopwatch(machine.synchronize, machine.clock) as watch:
        machine.queue(2.0)
    assert watch.duration_s == 2.0


def test_a_stopwatch_stops_on_an_error_without_touching_the_device(machine):
    watch = Stopwatch(machine.synchronize, machine.clock)

    def failing_block():
        with watch:
            machine.now += 3.0
            raise KeyError

    with pytest.raises(KeyError):
        failing_block()
    assert watch.duration_s == 3.0
    assert machine.waits == 1


def test_measuring_imports_no_torch():
    code = "import sys, gpuopt.measure; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(Path(gpuopt.errors.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
