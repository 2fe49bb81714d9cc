import json

import pytest

from gpuopt.measure import Interval


@pytest.mark.parametrize(
    ("low", "high", "finding"),
    [(0.01, 0.02, True), (-0.02, -0.01, True), (-0.01, 0.02, False), (0, 0.1, False)],
)
def test_only_an_interval_beside_zero_is_a_finding(low, high, finding):
    assert Interval((low + high) / 2, low, high).excludes_zero is finding


def test_words_and_plain_values():
    interval = Interval(0.9234, 0.914, 0.9321)
    assert str(interval) == "0.923 (0.914 to 0.932)"
    assert json.loads(json.dumps(interval.as_dict())) == {
        "value": 0.9234,
        "low": 0.914,
        "high": 0.9321,
    }
