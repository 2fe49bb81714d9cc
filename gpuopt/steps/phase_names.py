"""What a training step is divided into, and what these parts are called in a trace."""

from typing import Literal

__all__ = ["PHASES", "Phase", "phase_of", "range_name"]

Phase = Literal["data", "forward", "backward", "optimizer", "profiler"]

PHASES: tuple[Phase, ...] = ("data", "forward", "backward", "optimizer")
_PREFIX = "gpuopt: "


def range_name(phase: Phase) -> str:
    """Return the name that a phase has in a trace."""
    return f"{_PREFIX}{phase}"


def phase_of(name: str) -> str | None:
    """Return the phase that a range of a trace stands for; None for any other range."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None
