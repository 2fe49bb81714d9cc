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


def test_one_plant_is_taken_away():
    plants = Plants(("data", "batch"), 2, load_s=1.0)
    assert plants.without("data") == Plants(("batch",), 2)
    assert plants.without("batch") == Plants(("data",), 4, load_s=1.0)


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
