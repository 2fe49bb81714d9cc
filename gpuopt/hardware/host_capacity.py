"""How much memory this process may use on the host."""

import os
from pathlib import Path

__all__ = ["host_memory_bytes"]

_CGROUP_ROOT = Path("/sys/fs/cgroup")
# Of version 2 and version 1; a container sees its own group as the root.
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def host_memory_bytes(cgroup_root: Path = _CGROUP_ROOT) -> int:
    """Return the smaller of the machine's memory and the container's limit, in bytes."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = (_limit(cgroup_root / name) for name in _LIMITS)
    return min([installed, *(limit for limit in limits if limit is not None)])


def _limit(path: Path) -> int | None:
    """Read a limit; "max" means that there is none."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
