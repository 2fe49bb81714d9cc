import os

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import (
    Gpu,
    available_cpus,
    processor_flags,
    processor_name,
    recommended_workers,
)


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host whose affinity gives 8 CPUs, with control groups in a folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "fs").mkdir()

    def cpus(membership, **files):
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "membership").write_text(membership)
        return available_cpus(tmp_path / "fs", tmp_path / "membership")

    return cpus


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "garbage\n"}, 8),
        ({"cpu.max": "100000 0\n"}, 8),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ({"a/cpu.max": "max 100000", "a/b/cpu.max": "400000 100000"}, 4),
    ],
)
def test_cgroup_v2_quotas_of_all_levels_count(host, files, expected):
    assert host("0::/a/b\n", **files) == expected


@pytest.mark.parametrize(
    ("mount", "quota", "expected"),
    [("cpu,cpuacct", "250000", 2), ("cpu", "300000", 3), ("cpu", "-1", 8)],
)
@pytest.mark.parametrize("folder", ["", "docker/x/"])
def test_cgroup_v1_quotas_count(host, mount, quota, expected, folder):
    files = {
        f"{mount}/{folder}cpu.cfs_quota_us": quota,
        f"{mount}/{folder}cpu.cfs_period_us": "100000",
    }
    names = "cpu,cpuacct" if "," in mount else "cpu"
    assert host(f"5:memory:/docker/x\n4:{names}:/docker/x\n", **files) == expected


def test_a_group_outside_of_the_container_falls_back_to_the_root(host):
    assert host("0::/../../other\n", **{"cpu.max": "200000 100000"}) == 2


def test_no_control_groups_leave_the_affinity(host, tmp_path):
    assert available_cpus(tmp_path / "none", tmp_path / "none") == 8


def test_systems_without_affinity_count_their_cpus(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cpus(tmp_path, tmp_path / "none") == 6


def test_a_processor_is_named_as_the_system_does(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2: fast\nmodel name\t: other\n")
    assert processor_name(info) == "Some CPU @ 2: fast"
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    info.write_text("processor\t: 0\nmodel name\t:\n")
    assert processor_name(info) == processor_name(tmp_path / "none") == "aarch64"


@pytest.mark.parametrize("name", ["flags\t\t", "Features\t"])
def test_a_processors_features_are_read_once_and_sorted(tmp_path, name):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\n{name}: sse avx2 avx\n\nprocessor\t: 1\n{name}: other\n")
    assert processor_flags(info) == ("avx", "avx2", "sse")
    assert processor_flags(tmp_path / "none") == ()


CPU = Gpu(name="cpu", num_workers=2)
CARD = Gpu(name="card", num_workers=8)


@pytest.mark.parametrize(
    ("gpu", "cached", "cpus", "expected"),
    [
        (CPU, True, 16, 0),
        (CPU, False, 16, 2),
        (CPU, False, 1, 1),
        (CARD, True, 16, 2),
        (CARD, True, 1, 1),
        (CARD, False, 16, 8),
        (CARD, False, 4, 4),
        (Gpu(name="unknown"), False, 5, 5),
    ],
)
def test_workers_are_recommended_within_the_cpus(gpu, cached, cpus, expected):
    choice = recommended_workers("auto", gpu, cached, cpus)
    assert (choice.key, choice.value) == ("num_workers", expected)
    assert choice.evidence in ("table", "measured")


def test_a_number_is_taken_as_given():
    choice = recommended_workers(32, CARD, cached=False, cpus=2)
    assert (choice.value, choice.evidence) == (32, "given")


@pytest.mark.parametrize("wrong", [-1, True, 2.5, "many"])
def test_no_number_is_refused(wrong):
    with pytest.raises(InputError, match="num_workers="):
        recommended_workers(wrong, CARD, cached=False)
