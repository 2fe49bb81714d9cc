"""Two ranks with different numbers of samples take the step of one big batch."""

import json

import pytest

from tests.callbacks.two_ranks import end_of_two_ranks


@pytest.mark.slow
def test_ranks_with_different_sample_counts(warm, tmp_path):
    end_of_two_ranks(warm, "tests.callbacks.accumulation_ranks", tmp_path)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(found) == 4
        for name, differences in found.items():
            assert max(differences) < 1e-12, name
