import pytest

from gpuopt.measure.device_work import TraceEvent, device_work


def kernel(began, ended):
    return TraceEvent("gemm", is_on_device=True, began_us=began, ended_us=ended)


def call(name, began, ended):
    return TraceEvent(name, is_on_device=False, began_us=began, ended_us=ended)


def test_kernels_of_two_streams_count_once():
    work = device_work([kernel(0, 1000), kernel(500, 2000), kernel(3000, 4000)], steps=2)
    assert work.busy_ms == pytest.approx(1.5)
    assert (work.blocked_ms, work.waits) == (0, 0)


def test_waits_are_counted_but_for_the_end_of_the_trace():
    events = [
        call("cudaLaunchKernel", 0, 10),
        call("cudaStreamSynchronize", 20, 1020),
        call("cudaMemcpyAsync", 1030, 1040),
        call("cudaEventSynchronize", 1100, 1600),
        call("cudaLaunchKernelExC", 1700, 1710),
        call("cudaDeviceSynchronize", 1720, 9000),
    ]
    work = device_work(events, steps=2, places={"a.py:1": 1.0})
    assert work.blocked_ms == pytest.approx(0.75)
    assert work.waits == 1
    assert work.places == {"a.py:1": 1.0}


def test_an_empty_trace():
    assert device_work([], steps=3).busy_ms == 0
