"""Two ranks of which one runs out of memory: none waits, and the result stays the same."""

import json

import pytest

from tests.callbacks.two_ranks import end_of_two_ranks


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_recovers_alone(tmp_path):
    end_of_two_ranks("tests.callbacks.oom_ranks", tmp_path)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for name, largest in found.items():
            if name.startswith("no failure"):
                assert largest == 0.0, name
            else:
                assert largest < 1e-12, name
