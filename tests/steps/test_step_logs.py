import pytest
import torch
from torchmetrics import MeanMetric

from gpuopt.steps.step_logs import LogCall, merged


def call(value, **options):
    return LogCall("name", value, (), options)


def test_means_are_weighted_by_samples_and_sums_add_up():
    parts = [[call(torch.tensor(1.0))], [call(torch.tensor(5.0))]]
    assert float(merged(parts, [3, 1], {})[0].value) == 2.0
    assert float(merged(parts, [3, 1], {"name": "sum"})[0].value) == 6.0
    assert merged(parts[:1], [3], {}) == parts[0]


def test_the_reduction_of_the_call_is_kept():
    parts = [[call(1.0, reduce_fx="max")], [call(5.0, reduce_fx="max")]]
    assert merged(parts, [3, 1], {})[0].value == 5.0


@pytest.mark.parametrize(
    ("sizes", "expected"), [((3, 1), 4), ((2, 1), 3), ((16, 16), 16), ((0, 0), 0)]
)
def test_batch_sizes_are_those_of_the_whole(sizes, expected):
    parts = [[call(1.0, batch_size=size)] for size in sizes]
    found = merged(parts, [3, 1], {})[0]
    assert found.options["batch_size"] == expected
    assert found.value == 1.0


def test_a_name_logged_twice_stays_twice():
    parts = [[call(1.0), call(2.0)], [call(3.0), call(4.0)]]
    assert [found.value for found in merged(parts, [1, 1], {})] == [2.0, 3.0]


def test_a_metric_keeps_its_value_of_the_batch():
    metric = MeanMetric()
    parts = [
        [LogCall("name", metric, (), {}, torch.tensor(1.0))],
        [LogCall("name", metric, (), {}, torch.tensor(3.0))],
    ]
    found = merged(parts, [1, 1], {})[0]
    assert found.value is metric
    assert float(found.of_batch) == 2.0
