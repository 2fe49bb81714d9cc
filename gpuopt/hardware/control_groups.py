"""The control groups of this process, each of which may limit it (Linux, version 1 and 2)."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

__all__ = ["CGROUP_ROOT", "MEMBERSHIP", "ControlGroup", "control_groups"]

CGROUP_ROOT = Path("/sys/fs/cgroup")
"""Where the control groups are mounted."""

MEMBERSHIP = Path("/proc/self/cgroup")
"""The file that names this process's groups."""


@dataclass(frozen=True)
class ControlGroup:
    """A group, and where Linux tells of it.

    Attributes:
        version: Of the hierarchy, which decides how files are named.
        mount: The folder of the hierarchy.
        path: The group below the mount; empty for the root that this process sees.
    """

    version: Literal[1, 2]
    mount: Path
    path: PurePosixPath

    @property
    def folder(self) -> Path:
        """The folder of the group's files."""
        return self.mount / self.path


def control_groups(
    controller: str, root: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP
) -> list[ControlGroup]:
    """List the groups of this process for one controller, and all groups above them.

    Args:
        controller: Such as `cpu` or `memory`.
        root: Where the control groups are mounted.
        membership: The file that names this process's groups; without it only the roots count.
    """
    found = []
    for names, group in _memberships(membership) or [([], _ROOT), ([controller], _ROOT)]:
        version: Literal[1, 2] = 1 if names else 2
        if version == 2:
            mount = root
        elif controller in names:
            mounts = (root / ",".join(names), root / controller)
            mount = next((m for m in mounts if m.is_dir()), mounts[-1])
        else:
            continue
        # A container sees its own group as the root, whatever path the host gave it.
        levels = [level for level in (group, *group.parents) if level.is_absolute()]
        found += [ControlGroup(version, mount, level.relative_to(_ROOT)) for level in levels]
    return found


_ROOT = PurePosixPath("/")


def _memberships(path: Path) -> list[tuple[list[str], PurePosixPath]]:
    """Parse lines such as "0::/user.slice" and "4:cpu,cpuacct:/docker/abc"."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    fields = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    # A group outside this container's view is written with ".."; only the root is visible then.
    return [
        (names.split(",") if names else [], _ROOT if ".." in group else PurePosixPath(group))
        for _, names, group in fields
    ]
