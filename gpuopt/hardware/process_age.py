"""How long this process has been running: what a command costs before its work begins."""

import os
from pathlib import Path

__all__ = ["process_age_s"]


def process_age_s() -> float | None:
    """Return the seconds since this process started; None where the system does not tell."""
    try:
        # After the name in brackets, which may hold anything: field 22 is the start in ticks.
        fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
        up_s = float(Path("/proc/uptime").read_text("utf-8").split()[0])
        return max(0.0, up_s - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None
