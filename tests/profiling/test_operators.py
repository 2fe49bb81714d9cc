import pytest

from gpuopt.profiling import trace_of
from gpuopt.profiling.operators import operator_rows, site_rows
from tests.profiling.events import kernel, memory, operator, span, step


def rows_of(*events, **options):
    return {row.name: row for row in operator_rows(trace_of([step(0, 1000), *events]), **options)}


def test_own_time_is_without_what_an_operator_calls(host_trace):
    rows = {row.name: row for row in operator_rows(host_trace)}
    assert rows["aten::conv"].self_host_ms == pytest.approx(0.15)
    assert rows["aten::conv"].total_host_ms == pytest.approx(0.35)
    assert rows["aten::mkldnn_conv"].self_host_ms == pytest.approx(0.2)
    assert operator_rows(host_trace)[0].name == "aten::conv_backward"


def test_an_operator_that_calls_itself_is_one_call():
    events = [operator("aten::sort", 0, 100), operator("aten::sort", 10, 90)]
    (row,) = rows_of(*events).values()
    assert (row.calls, row.total_host_ms, row.self_host_ms) == (1, 0.1, 0.1)


def test_threads_do_not_nest():
    events = [operator("aten::mm", 0, 100), operator("aten::mul", 20, 30, thread=2)]
    rows = rows_of(*events)
    assert rows["aten::mm"].self_host_ms == 0.1
    assert rows["aten::mul"].self_host_ms == 0.01


def test_the_devices_time_belongs_to_the_operator_that_started_it(device_trace):
    rows = {row.name: row for row in operator_rows(device_trace)}
    assert rows["aten::conv"].self_device_ms == pytest.approx(0.390 + 0.100 + 0.800)
    assert rows["aten::copy_"].self_device_ms == pytest.approx(0.098 + 0.100)
    assert operator_rows(device_trace)[0].name == "aten::conv"


def test_the_device_decides_about_the_order_where_there_is_one():
    events = [
        operator("aten::slow_to_launch", 0, 500, link=1),
        operator("aten::mm", 500, 510, link=2),
    ]
    events += [kernel("k", 20, 30, link=1), kernel("k", 520, 900, link=2)]
    assert list(rows_of(*events)) == ["aten::mm", "aten::slow_to_launch"]


def test_shapes_are_told_apart_where_asked(host_trace):
    events = [operator("aten::mm", at, at + 10, shapes=[[at, 2]]) for at in (10, 20)]
    trace = trace_of([step(0, 100), *events])
    assert [row.shapes for row in operator_rows(trace)] == [""]
    assert {row.shapes for row in operator_rows(trace, by_shape=True)} == {"[[10, 2]]", "[[20, 2]]"}


def test_memory_belongs_to_the_innermost_operator():
    events = [operator("aten::conv", 0, 100), operator("aten::empty", 10, 20)]
    events += [memory(15, 4096, 4096), memory(50, -1024, 3072), memory(500, 64, 3136)]
    rows = rows_of(*events)
    assert (rows["aten::empty"].self_bytes, rows["aten::conv"].self_bytes) == (4096, -1024)


def test_what_lies_outside_of_the_steps_is_left_out():
    events = [step(100, 200), operator("aten::before", 0, 50), operator("aten::mm", 110, 120)]
    assert [row.name for row in operator_rows(trace_of(events))] == ["aten::mm"]


def test_functions_are_the_users_own():
    events = [
        step(0, 100),
        span("python_function", "train.py(3): training_step", 0, 60),
        span("python_function", "torch/nn/modules/linear.py(9): forward", 1, 50),
        operator("aten::linear", 2, 40),
        span("python_function", "train.py(9): loss", 62, 90),
        operator("aten::sort", 63, 89),
        operator("aten::free", 95, 99),
    ]
    rows = {row.name: round(1000 * row.self_host_ms) for row in site_rows(trace_of(events))}
    assert rows == {
        "train.py(3): training_step": 38,
        "train.py(9): loss": 26,
        "outside of any function": 4,
    }


def test_without_functions_there_is_no_table_of_them(host_trace):
    assert site_rows(host_trace) == []
