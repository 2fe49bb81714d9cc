"""Which CPUs this process may use, how many, and how many of them load data."""

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.hardware.control_groups import CGROUP_ROOT, MEMBERSHIP, ControlGroup, control_groups
from gpuopt.hardware.gpu import Gpu

__all__ = [
    "CpuQuota",
    "available_cpus",
    "cpu_quota",
    "processor_flags",
    "processor_name",
    "recommended_workers",
]

_CPU_INFO = Path("/proc/cpuinfo")
_KEY = "num_workers"
_WORKERS_FOR_DECODED = 2


@dataclass(frozen=True)
class CpuQuota:
    """How many CPUs a control group may use.

    Attributes:
        cpus: Of its time; need not be whole.
        group: The group.
    """

    cpus: float
    group: ControlGroup


def available_cpus(cgroup_root: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP) -> int:
    """Count the CPUs that this process may really use.

    Args:
        cgroup_root: Where the control groups are mounted (version 1 or 2).
        membership: The file that names this process's groups.

    Returns:
        The smaller of the CPU affinity and the container's quota, at least 1. `os.cpu_count`
        sees neither and counts the whole host.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux only
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = cpu_quota(cgroup_root, membership)
    return max(1, math.floor(min(cpus, math.inf if quota is None else quota.cpus)))


def cpu_quota(cgroup_root: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP) -> CpuQuota | None:
    """Return the smallest quota of this process's groups and of all above them; None without one.

    Args:
        cgroup_root: As `available_cpus` has it.
        membership: The same.
    """
    groups = control_groups("cpu", cgroup_root, membership)
    shares = [(_QUOTAS[group.version](group.folder), group) for group in groups]
    found = [CpuQuota(cpus, group) for cpus, group in shares if cpus is not None]
    return min(found, key=lambda quota: quota.cpus, default=None)


def processor_name(cpu_info: Path = _CPU_INFO) -> str:
    """Name the model of the first CPU, or its architecture where the system does not tell.

    Args:
        cpu_info: The file in which Linux tells.
    """
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = (line.partition(":") for line in lines)
    names = [value.strip() for key, _, value in facts if key.strip() == "model name"]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def processor_flags(cpu_info: Path = _CPU_INFO) -> tuple[str, ...]:
    """List the features of the first CPU, sorted; none where the system does not tell.

    Args:
        cpu_info: The file in which Linux tells.
    """
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    facts = (line.partition(":") for line in lines)
    # x86 has flags, ARM has features.
    found = (value for key, _, value in facts if key.strip() in ("flags", "Features"))
    return tuple(sorted(next(found, "").split()))


def recommended_workers(
    requested: int | Literal["auto"], gpu: Gpu, cached: bool, cpus: int | None = None
) -> Choice:
    """Settle the number of loader processes of one training process.

    Args:
        requested: A number, or `auto`.
        gpu: The card to feed, or the preset `cpu`.
        cached: Whether samples come decoded from memory.
        cpus: CPUs of this training process; `available_cpus()` when None. With several
            devices on one host pass the share of each.

    Returns:
        A choice for the key `num_workers`. Decoded samples on a CPU get 0, because loaders
        would take the cores that train; on a GPU a few, since starting more takes seconds.

    Raises:
        InputError: The number is negative or no number.
    """
    if requested != "auto":
        if isinstance(requested, bool) or not isinstance(requested, int) or requested < 0:
            raise InputError(f"{_KEY}={requested}: must be auto or a number of processes from 0 on")
        return Choice(_KEY, requested, "given", "asked for")
    if gpu.is_cpu and cached:
        return Choice(_KEY, 0, "table", "decoded samples on a CPU need no processes of their own")
    cpus = available_cpus() if cpus is None else cpus
    if cached:
        workers = min(_WORKERS_FOR_DECODED, gpu.num_workers or _WORKERS_FOR_DECODED, cpus)
        return Choice(_KEY, workers, "table", "decoded samples are only copied")
    if gpu.num_workers is None:
        return Choice(_KEY, cpus, "measured", f"{cpus} CPUs, and gpu={gpu.name} names no number")
    workers = min(gpu.num_workers, cpus)
    reason = f"gpu={gpu.name} recommends {gpu.num_workers}, {cpus} CPUs may be used"
    return Choice(_KEY, workers, "table" if workers == gpu.num_workers else "measured", reason)


def _quota_v2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    return _share(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return _share(quota[0], period[0]) if quota and period else None


_QUOTAS = {2: _quota_v2, 1: _quota_v1}


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _share(quota: str, period: str) -> float | None:
    """Divide quota by period; "max" and -1 mean that there is no limit."""
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cpus if cpus > 0 else None
