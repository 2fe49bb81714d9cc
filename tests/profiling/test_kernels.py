import pytest

from gpuopt.profiling.kernels import KernelRow, kernel_rows


def test_kernels_are_summed_by_name_and_the_longest_comes_first(device_trace):
    first, second = kernel_rows(device_trace.kernels)
    assert (first.name, first.calls, first.device_ms) == ("first", 3, pytest.approx(1.29))
    assert (second.name, second.calls, second.device_ms) == ("second", 2, pytest.approx(0.198))
    assert first.bytes is first.gib_per_second is None


def test_copies_have_a_speed(device_trace):
    (row,) = kernel_rows(device_trace.copies)
    assert row.bytes == 1024
    assert KernelRow("copy", 1, 500.0, 2**30).gib_per_second == 2.0
