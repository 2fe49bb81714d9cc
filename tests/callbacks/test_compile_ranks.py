import json

import pytest

from tests.callbacks.two_ranks import end_of_two_ranks


@pytest.mark.slow
def test_two_ranks_come_to_the_same_choice(warm, tmp_path):
    end_of_two_ranks(warm, "tests.callbacks.compile_ranks", tmp_path)
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    for name, case in first.items():
        assert case["choice"] == second[name]["choice"], name
        assert case["weights"] == second[name]["weights"], name
    assert first["one fails"]["choice"] == "off"
    assert "it failed on another rank" in first["one fails"]["reason"]
    assert "wrong on the second rank" in second["one fails"]["reason"]
    assert first["one is slow"]["choice"] == "off"  # the first alone would take it
    assert "not surely faster" in first["one is slow"]["reason"]
    assert first["one is slow"]["reason"] == second["one is slow"]["reason"]
    out = [case for name, case in first.items() if name.startswith("memory")]
    assert [case["choice"] for case in out] == 3 * ["off"]
    assert first["memory {1}"]["reason"] == "it cannot be tried on another rank"
    assert second["memory {1}"]["reason"] == "memory ran out in the trial"
    assert {case["reason"] for case in out[1:]} == {"memory ran out in the trial"}
