import os
from types import SimpleNamespace

import pytest

from gpuopt.hardware.shared_memory import full_shared_memory, workers_that_fit

MIB = 2**20


@pytest.fixture
def mounted(monkeypatch):
    """Let a folder be of another size."""

    def mount(total_mib, free_mib):
        status = SimpleNamespace(f_frsize=MIB, f_blocks=total_mib, f_bavail=free_mib)
        monkeypatch.setattr(os, "statvfs", lambda _: status)

    return mount


def test_as_many_workers_as_their_batches_fit(mounted):
    mounted(64, 60)
    assert workers_that_fit(10 * MIB) == 2
    assert workers_that_fit(30 * MIB) == 0
    assert workers_that_fit(10 * MIB, prefetch_factor=1) == 3


@pytest.mark.parametrize(
    ("total_mib", "free_mib", "is_full"), [(64, 60, False), (64, 3, True), (1, 1, True)]
)
def test_only_a_full_or_tiny_one_is_to_blame(mounted, total_mib, free_mib, is_full):
    mounted(total_mib, free_mib)
    said = full_shared_memory()
    assert (said is not None) == is_full
    if said:
        assert f"/dev/shm holds {total_mib} MiB, {free_mib} MiB are free" in said


def test_a_system_without_it_says_nothing(tmp_path):
    assert workers_that_fit(MIB, tmp_path / "none") is None
    assert full_shared_memory(tmp_path / "none") is None
