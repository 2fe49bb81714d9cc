"""The program that plants bottlenecks and leaks, on tiny inputs."""

import json

import pytest

from benchmarks import diagnose
from benchmarks.diagnose import Plants


@pytest.mark.parametrize("kinds", [(), ("data",), ("optimizer", "batch")])
def test_what_is_drawn_is_what_was_asked_for(kinds):
    plants = diagnose._draw(kinds, 1, 8, {8: 0.1})
    assert bool(plants.load_s) == ("data" in kinds)
    assert bool(plants.parameters) == ("optimizer" in kinds)
    assert plants.after_wait_s == 0


def test_one_bottleneck_is_taken_away():
    plants = Plants(("data", "batch"), 2, load_s=1.0)
    assert plants.without("data") == Plants(("batch",), 2, from_memory=True)
    assert plants.without("batch") == Plants(("data",), 4, load_s=2.0)  # as long for each sample
    assert Plants((), 8).without("batch") == Plants((), 16)


@pytest.mark.parametrize(
    ("found", "planted", "gains", "is_right"),
    [
        (set(), (), {}, True),
        ({"data"}, ("data",), {"data": 2.0}, True),
        (set(), ("data",), {"data": 2.0}, False),
        (set(), ("batch",), {"batch": 0.2}, True),  # costs too little to have to be found
        ({"data", "batch"}, ("batch",), {"data": 0.06, "batch": 0.4}, True),  # really there
        ({"data"}, (), {"data": 0.0}, False),
        ({"optimizer"}, (), {}, False),
    ],
)
def test_what_counts_as_right(found, planted, gains, is_right):
    assert diagnose._is_right(found, planted, gains) == is_right


def test_the_planted_cases():
    assert len(list(diagnose._planted(["all"]))) == 11
    assert list(diagnose._planted(["none", "data+batch"])) == [(), ("data", "batch")]


@pytest.mark.slow
def test_it_runs_and_keeps_every_case(tmp_path):
    path = diagnose.main(["--quick", "--output", str(tmp_path)])
    result = json.loads(path.read_text("utf-8"))
    assert [row["setting"] for row in result["rows"]] == ["2 cases", "3 cases"]
    assert [case["planted"] for case in result["details"]["bottlenecks"]] == [[], ["data"]]
    assert result["details"]["bottlenecks"][1]["gains"]["data"] > 0
    assert [case["planted"] for case in result["details"]["leaks"]] == ["none", "tensors", "host"]
