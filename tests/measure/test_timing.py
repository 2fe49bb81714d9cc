import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpuopt.errors
from gpuopt.measure import StepTimer, Stopwatch


class Machine:
    """A clock, and a device with queued work that only synchronising waits for."""

    def __init__(self):
        self.now = 100.0
        self.queued = 0.0
        self.synchronisations = 0

    def clock(self):
        return self.now

    def synchronize(self):
        self.synchronisations += 1
        self.now += self.queued
        self.queued = 0.0


def steps(timer, machine, count, samples=32):
    for _ in range(count):
        machine.now += 0.25
        timer.batch_ready()
        machine.now += 0.125
        machine.queued += 0.625
        timer.batch_done(samples)


def test_a_segment_holds_queued_work_and_synchronises_at_its_edges_only():
    machine = Machine()
    machine.queued = 50.0  # work from before the segment does not count
    timer = StepTimer(machine.synchronize, machine.clock)
    timer.begin()
    steps(timer, machine, 8)
    assert machine.synchronisations == 1
    segment = timer.end()
    assert machine.synchronisations == 2
    assert (segment.steps, segment.samples) == (8, 256)
    assert segment.duration_s == 8.0
    assert segment.samples_per_second == 32.0
    assert segment.step_ms == 1000.0
    assert segment.data_wait_ratio == 0.25


def test_what_lies_between_segments_is_left_out():
    machine = Machine()
    timer = StepTimer(machine.synchronize, machine.clock)
    timer.begin()
    steps(timer, machine, 2)
    first = timer.end()
    machine.now += 1000
    assert not timer.is_running
    timer.begin()
    assert timer.is_running
    steps(timer, machine, 2)
    assert timer.end() == first


def test_an_empty_segment_has_no_rates():
    machine = Machine()
    timer = StepTimer(machine.synchronize, machine.clock)
    timer.begin()
    segment = timer.end()
    assert (segment.samples_per_second, segment.step_ms, segment.data_wait_ratio) == (0, 0, 0)


def test_ending_without_beginning_is_an_error():
    with pytest.raises(RuntimeError, match="begin"):
        StepTimer().end()


def test_a_stopwatch_waits_for_the_device_at_both_edges():
    machine = Machine()
    machine.queued = 5.0
    with Stopwatch(machine.synchronize, machine.clock) as watch:
        machine.queued += 2.0
    assert watch.duration_s == 2.0


def test_a_stopwatch_stops_on_an_error_without_touching_the_device():
    machine = Machine()
    watch = Stopwatch(machine.synchronize, machine.clock)

    def failing_block():
        with watch:
            machine.now += 3.0
            raise KeyError

    with pytest.raises(KeyError):
        failing_block()
    assert watch.duration_s == 3.0
    assert machine.synchronisations == 1


def test_measuring_imports_no_torch():
    code = "import sys, gpuopt.measure; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(Path(gpuopt.errors.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
