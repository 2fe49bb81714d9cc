import pytest

from gpuopt.profiling import trace_of
from gpuopt.profiling.calls import operator_calls
from gpuopt.profiling.operators import operator_rows, site_rows
from tests.profiling.events import kernel, operator, span, step


def rows_of(trace, **options):
    return {row.name: row for row in operator_rows(operator_calls(trace), **options)}


def sites_of(trace):
    rows = site_rows(operator_calls(trace))
    return {row.name: round(1000 * row.self_host_ms) for row in rows}


def test_what_took_most_comes_first(host_trace):
    rows = rows_of(host_trace)
    assert next(iter(rows)) == "aten::conv_backward"
    assert rows["aten::conv"].self_host_ms == pytest.approx(0.15)
    assert rows["aten::conv"].total_host_ms == pytest.approx(0.35)


def test_the_device_decides_about_the_order_where_there_is_one():
    events = [operator("aten::slow_to_launch", 0, 500, link=1)]
    events += [operator("aten::mm", 500, 510, link=2)]
    events += [kernel("k", 20, 30, link=1), kernel("k", 520, 900, link=2)]
    assert list(rows_of(trace_of([step(0, 1000), *events]))) == ["aten::mm", "aten::slow_to_launch"]


def test_an_operator_that_calls_itself_is_one_call():
    events = [step(0, 1000), operator("aten::sort", 0, 100), operator("aten::sort", 10, 90)]
    row = rows_of(trace_of(events))["aten::sort"]
    assert (row.calls, row.total_host_ms, row.self_host_ms) == (1, 0.1, 0.1)


def test_shapes_are_told_apart_where_asked():
    events = [operator("aten::mm", at, at + 10, shapes=[[at, 2]]) for at in (10, 20)]
    calls = operator_calls(trace_of([step(0, 100), *events]))
    assert [row.shapes for row in operator_rows(calls)] == [""]
    rows = operator_rows(calls, by_shape=True)
    assert {row.shapes for row in rows} == {"[[10, 2]]", "[[20, 2]]"}


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
    assert sites_of(trace_of(events)) == {
        "train.py(3): training_step": 38,
        "train.py(9): loss": 26,
        "outside of any function": 4,
    }


def test_one_function_may_have_called_all():
    events = [step(0, 100), span("python_function", "train.py(3): f", 0, 60)]
    assert sites_of(trace_of([*events, operator("aten::mm", 2, 40)])) == {"train.py(3): f": 38}


def test_without_functions_there_is_no_table_of_them(host_trace):
    assert sites_of(host_trace) == {}
