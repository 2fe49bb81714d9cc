"""How much memory this process may use on the host."""

import os
from dataclasses import dataclass
from pathlib import Path

from gpuopt.hardware.control_groups import CGROUP_ROOT, MEMBERSHIP, ControlGroup, control_groups

__all__ = ["MemoryLimit", "host_memory_bytes", "memory_limit"]

_LIMIT_FILES = {2: "memory.max", 1: "memory.limit_in_bytes"}


@dataclass(frozen=True)
class MemoryLimit:
    """How much memory a control group may use.

    Attributes:
        size_bytes: Of all its processes together.
        group: The group.
    """

    size_bytes: int
    group: ControlGroup


def host_memory_bytes(cgroup_root: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP) -> int:
    """Return the smaller of the machine's memory and the limit of this process, in bytes.

    Args:
        cgroup_root: Where the control groups are mounted.
        membership: The file that names this process's groups.
    """
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = memory_limit(cgroup_root, membership)
    return installed if limit is None else min(installed, limit.size_bytes)


def memory_limit(
    cgroup_root: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP
) -> MemoryLimit | None:
    """Return the smallest limit of this process's groups and of all above them; None without one.

    Args:
        cgroup_root: As `host_memory_bytes` has it.
        membership: The same.
    """
    groups = control_groups("memory", cgroup_root, membership)
    limits = [(_limit(group.folder / _LIMIT_FILES[group.version]), group) for group in groups]
    found = [MemoryLimit(size, group) for size, group in limits if size is not None]
    return min(found, key=lambda limit: limit.size_bytes, default=None)


def _limit(path: Path) -> int | None:
    """Read a limit; "max" means that there is none."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
