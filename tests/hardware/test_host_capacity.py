import os

import pytest

from gpuopt.hardware import host_memory_bytes, memory_limit

INSTALLED = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max\n", INSTALLED),
        (f"{2**20}\n", 2**20),
        (f"{2**63 - 4096}\n", INSTALLED),
        ("", INSTALLED),
        (None, INSTALLED),
    ],
)
def test_the_smaller_of_machine_and_container_counts(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert host_memory_bytes(tmp_path, tmp_path / "none") == expected


@pytest.mark.parametrize(
    ("line", "mount", "name"),
    [
        ("0::/slurm/job/step", "", "memory.max"),
        ("7:cpu:/\n4:memory:/slurm/job/step", "memory", "memory.limit_in_bytes"),
    ],
)
@pytest.mark.parametrize(
    ("limits", "smallest", "group"),
    [
        ({"slurm/job": "4000000\n", "slurm/job/step": "max\n"}, 4_000_000, "slurm/job"),
        ({"": "9000000\n", "slurm/job/step": "5000000\n"}, 5_000_000, "slurm/job/step"),
        ({"other": "1000000\n"}, INSTALLED, None),
    ],
)
def test_the_groups_of_this_process_and_those_above_limit_it(
    tmp_path, line, mount, name, limits, smallest, group
):
    (tmp_path / "membership").write_text(f"{line}\n")
    for path, content in limits.items():
        folder = tmp_path / mount / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    assert host_memory_bytes(tmp_path, tmp_path / "membership") == smallest
    found = memory_limit(tmp_path, tmp_path / "membership")
    assert (None if found is None else str(found.group.path)) == group
