"""Two ranks of which one runs out of memory: none waits, and the result stays the same."""

import json
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def variables(rank, port):
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    names = {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    elastic = {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
    return {key: str(value) for key, value in (places | names | elastic).items()}


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_recovers_alone(start_command, tmp_path):
    words, port = ("tests.callbacks.oom_ranks", str(tmp_path)), free_port()
    ranks = [start_command(ROOT, *words, environment=variables(rank, port)) for rank in (0, 1)]
    ends = [rank.end(240) for rank in ranks]
    assert [end.code for end in ends] == [0, 0], "\n".join(end.stderr for end in ends)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for name, largest in found.items():
            if name.startswith("no failure"):
                assert largest == 0.0, name
            else:
                assert largest < 1e-12, name
