import os

import pytest

from gpuopt.hardware import host_memory_bytes

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
    assert host_memory_bytes(tmp_path) == expected
