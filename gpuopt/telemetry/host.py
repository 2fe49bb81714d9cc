"""How busy and how full the machine is, or the container where that is the limit.

Read from Linux's own files; what another system does not have is unavailable.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from gpuopt.hardware import (
    CGROUP_ROOT,
    MEMBERSHIP,
    ControlGroup,
    cpu_quota,
    host_memory_bytes,
    memory_limit,
)
from gpuopt.telemetry.sample import HostReading

__all__ = ["HostMeter"]

_PROC = Path("/proc")
# The file of the memory in use, and the line of `memory.stat` with cached pages, by version.
_MEMORY = {
    2: ("memory.current", "inactive_file"),
    1: ("memory.usage_in_bytes", "total_inactive_file"),
}
# Of a processor's line: idle and waiting for a disk; the time of guests is in the user's already.
_IDLE, _GUEST_COLUMN = slice(3, 5), 8


class HostMeter:
    """Reads the machine, from one call to the next.

    Args:
        proc: Where Linux tells of itself.
        cgroup_root: Where the control groups are mounted (version 1 or 2).
        clock: Monotonic time in seconds.
        membership: The file that names this process's groups.
    """

    def __init__(
        self,
        proc: Path = _PROC,
        cgroup_root: Path = CGROUP_ROOT,
        clock: Callable[[], float] = time.monotonic,
        membership: Path = MEMBERSHIP,
    ) -> None:
        self._proc = proc
        self._cgroup_root = cgroup_root
        self._membership = membership
        self._clock = clock
        self._busy: tuple[float, float] | None = None

    def read(self) -> HostReading:
        """Look at the machine once; how busy it was since the last call is known from the second.

        A container with a quota of processors or memory is measured by that. Cached files, which
        the system drops where memory is wanted, are not counted as used.
        """
        used_bytes, total_bytes = self._memory_bytes()
        return HostReading(self._cpu_ratio(), used_bytes, total_bytes)

    def _cpu_ratio(self) -> float | None:
        cpus = _own_cpus()
        quota = cpu_quota(self._cgroup_root, self._membership)
        is_limited = quota is not None and quota.cpus < len(cpus)
        grouped_s = self._group_busy_s(quota.group) if quota and is_limited else None
        if quota and grouped_s is not None:
            now = (grouped_s, self._clock() * quota.cpus)
        else:
            ticks = self._machine_ticks(cpus)
            if ticks is None:
                return None
            now = ticks
        before, self._busy = self._busy, now
        if before is None or now[1] <= before[1]:
            return None
        return min(1.0, max(0.0, (now[0] - before[0]) / (now[1] - before[1])))

    def _group_busy_s(self, group: ControlGroup) -> float | None:
        """Return the time that the processes of a group ran, from version 2 or version 1."""
        used = _number(group.folder / "cpu.stat", "usage_usec")
        if used is not None:
            return used / 1e6
        used = _number(self._cgroup_root / "cpuacct" / group.path / "cpuacct.usage")
        return None if used is None else used / 1e9

    def _machine_ticks(self, cpus: set[int]) -> tuple[float, float] | None:
        """Return the busy and all ticks of some processors."""
        rows: list[list[int]] = []
        for line in _lines(self._proc / "stat"):
            name, *columns = line.split() or [""]
            number = name.removeprefix("cpu")
            is_own = name.startswith("cpu") and number.isdigit() and int(number) in cpus
            if is_own and all(column.isdigit() for column in columns):
                rows.append([int(column) for column in columns[:_GUEST_COLUMN]])
        if not rows:
            return None
        total = sum(map(sum, rows))
        return total - sum(sum(row[_IDLE]) for row in rows), total

    def _memory_bytes(self) -> tuple[int | None, int | None]:
        """Return used and all bytes, of the group whose limit is below the machine's memory."""
        total_bytes = host_memory_bytes(self._cgroup_root, self._membership)
        limit = memory_limit(self._cgroup_root, self._membership)
        if limit is not None and limit.size_bytes <= total_bytes:
            return self._group_used_bytes(limit.group), total_bytes
        installed = _number(self._proc / "meminfo", "MemTotal:")
        available = _number(self._proc / "meminfo", "MemAvailable:")
        if installed is None or available is None:
            return None, total_bytes
        return (installed - available) * 1024, total_bytes

    def _group_used_bytes(self, group: ControlGroup) -> int | None:
        usage, cached = _MEMORY[group.version]
        used = _number(group.folder / usage)
        if used is None:
            return None
        return max(0, used - (_number(group.folder / "memory.stat", cached) or 0))


def _own_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _number(path: Path, key: str | None = None) -> int | None:
    """Read the number of a file, or of the line that begins with a key."""
    for line in _lines(path):
        words = line.split()
        if key is None or (words and words[0] == key):
            try:
                return int(words[0 if key is None else 1])
            except (ValueError, IndexError):
                return None
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
