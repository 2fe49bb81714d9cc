import itertools

import pytest

from gpuopt.memory import FixedMemory, Line, MemoryEstimate
from gpuopt.memory.estimate import highest_lines

FLAT, MIDDLE, STEEP = Line(100, 0), Line(40, 10), Line(0, 15)


def estimate(*lines, **fixed):
    return MemoryEstimate(FixedMemory(**({"parameters": 50} | fixed)), lines, 32)


def test_only_lines_that_are_the_highest_somewhere_are_kept():
    never = [Line(30, 10), Line(50, 5), Line(-100, 15), Line(99, 0), Line(20, 12)]
    assert highest_lines([STEEP, *never, FLAT, MIDDLE, FLAT]) == (FLAT, MIDDLE, STEEP)
    assert highest_lines([Line(0, 5), Line(10, 1)]) == (Line(10, 1), Line(0, 5))
    assert highest_lines([Line(0, 5), Line(4, 1)]) == (Line(0, 5),)  # above from 1 sample on


@pytest.mark.parametrize("samples", [1, 5, 6, 7, 8, 9, 100])
def test_the_kept_lines_have_the_maximum_of_all(samples):
    lines = [Line(base, slope) for base in range(-30, 90, 7) for slope in range(0, 20, 3)]
    assert max(line.at(samples) for line in highest_lines(lines)) == max(
        line.at(samples) for line in lines
    )


def test_the_peak_is_convex_and_adds_up():
    memory = estimate(FLAT, MIDDLE, STEEP, context=7)
    peaks = [memory.peak_bytes(samples) for samples in range(1, 30)]
    steps = [after - before for before, after in itertools.pairwise(peaks)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1], memory.bytes_per_sample) == (0, 15, 15)
    assert memory.peak_bytes(7) == 50 + 7 + 110
    assert memory.allocated_bytes(7) == 50 + 110


@pytest.mark.parametrize("budget", [0, 149, 150, 160, 199, 200, 201, 214, 215, 1000, 12345])
def test_the_largest_batch_is_the_last_within_the_budget(budget):
    memory = estimate(FLAT, MIDDLE, STEEP)
    largest = memory.largest_batch(budget)
    assert largest == sum(memory.peak_bytes(n) <= budget for n in range(1, 2000))
    assert largest == 0 or memory.peak_bytes(largest) <= budget < memory.peak_bytes(largest + 1)
