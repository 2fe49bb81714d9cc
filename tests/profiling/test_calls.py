import random

import pytest

from gpuopt.profiling import trace_of
from gpuopt.profiling.calls import operator_calls
from tests.profiling.events import memory, operator, step


def calls_of(*events):
    return {call.span.name: call for call in operator_calls(trace_of([step(0, 1000), *events]))}


def test_own_time_is_without_what_an_operator_calls(host_trace):
    calls = {call.span.name: call for call in operator_calls(host_trace)}
    assert calls["aten::conv"].self_us == 150
    assert calls["aten::mkldnn_conv"].self_us == 200


def test_threads_do_not_nest():
    calls = calls_of(operator("aten::mm", 0, 100), operator("aten::mul", 20, 30, thread=2))
    assert (calls["aten::mm"].self_us, calls["aten::mul"].self_us) == (100, 10)


def test_the_devices_time_belongs_to_the_operator_that_started_it(device_trace):
    calls = {call.span.name: call for call in operator_calls(device_trace)}
    assert calls["aten::conv"].device_us == pytest.approx(390 + 100 + 800)
    assert calls["aten::copy_"].device_us == pytest.approx(98 + 100)
    assert calls["aten::_local_scalar_dense"].device_us == 0


def test_memory_belongs_to_the_innermost_operator():
    events = [operator("aten::conv", 0, 100), operator("aten::empty", 10, 20)]
    events += [memory(15, 4096, 4096), memory(50, -1024, 3072), memory(500, 64, 3136)]
    calls = calls_of(*events)
    assert (calls["aten::empty"].bytes, calls["aten::conv"].bytes) == (4096, -1024)


def test_what_lies_outside_of_the_steps_is_left_out():
    events = [step(100, 200), operator("aten::before", 0, 50), operator("aten::mm", 110, 120)]
    assert [call.span.name for call in operator_calls(trace_of(events))] == ["aten::mm"]


def test_own_times_add_up_to_the_whole():
    """Random trees of calls, in random order: whatever is inside of something is counted once."""
    generator = random.Random(0)
    for _ in range(50):
        events, whole = [step(0, 100_000)], 0

        def grow(start, end, events=events):
            events.append(operator(generator.choice("abc"), start, end))
            while end - start > 20 and generator.random() < 0.7:
                inner = generator.randint(start, end - 10)
                stop = generator.randint(inner + 1, end)
                grow(inner, stop)
                start = stop

        for start in range(0, 90_000, 10_000):
            end = start + generator.randint(1, 10_000)
            grow(start, end)
            whole += end - start
        generator.shuffle(events)
        assert sum(call.self_us for call in operator_calls(trace_of(events))) == whole
