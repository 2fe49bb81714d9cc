import json

import pytest

from tests.callbacks.two_ranks import end_of_two_ranks


@pytest.mark.slow
def test_two_ranks_search_in_lock_step_and_take_what_fits_both(warm, tmp_path):
    end_of_two_ranks(warm, "tests.callbacks.finder_ranks", tmp_path)
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert first == second
    assert all(case["same"] for case in first.values())
    unequal, failed, unlike = first.values()
    assert not any(unequal["failed"])
    assert unequal["largest"] <= (600 - 100) / 10  # alone the first rank would take 39
    assert unequal["largest"] == 19  # 0.3 GiB stay for what the peaks may scatter
    assert any(failed["failed"])
    assert 2 <= failed["largest"] <= (350 - 100) / 10
    assert unlike["headroom_ratio"] == 0.5
    assert unlike["sizes"][0] == 5  # the first of a search without prior, and the larger minimum
    assert unlike["largest"] == 70  # the smaller maximum; 90 would fit
