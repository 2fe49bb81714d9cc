"""How many loader processes a machine carries."""

import pytest

from gpuopt.tuning import loader_limits
from gpuopt.tuning.loader_limits import worker_limit

MIB = 2**20
ROOM = {"cpus": 8, "shared": 1000, "host_bytes": 2**40}


@pytest.mark.parametrize(
    ("changed", "workers", "words"),
    [
        ({}, 8, "8 processors"),
        ({"cpus": 2}, 2, "2 processors"),
        ({"shared": 3}, 3, "/dev/shm"),
        ({"shared": 0}, 0, "/dev/shm"),
        ({"host_bytes": 60 * MIB}, 5, "host's memory"),  # a quarter holds 5 x 3 batches of 1 MiB
    ],
)
def test_the_scarcest_limits(changed, workers, words):
    found = worker_limit(1.0, MIB, 2, **{**ROOM, **changed})
    assert found.workers == workers
    assert words in found.reason


def test_processes_that_wait_for_a_disk_share_processors():
    assert worker_limit(0.25, MIB, 2, **{**ROOM, "cpus": 2}).workers == 8
    assert worker_limit(0.0, MIB, 2, **{**ROOM, "cpus": 4}).workers == 32
    assert worker_limit(3.0, MIB, 2, **{**ROOM, "cpus": 1}).workers == 1


def test_the_system_is_asked(monkeypatch):
    monkeypatch.setattr(loader_limits, "available_cpus", lambda: 5)  # affinity and quota
    monkeypatch.setattr(loader_limits, "host_memory_bytes", lambda: 2**40)
    monkeypatch.setattr(loader_limits, "workers_that_fit", lambda size, prefetch_factor: 1000)
    assert worker_limit(1.0, MIB, 2).workers == 5
    fits = {1: 4, 2: 2}
    monkeypatch.setattr(
        loader_limits, "workers_that_fit", lambda size, prefetch_factor: fits[prefetch_factor]
    )
    assert [worker_limit(1.0, MIB, factor).workers for factor in (1, 2)] == [4, 2]
