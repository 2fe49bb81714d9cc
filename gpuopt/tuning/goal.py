"""What tuning is for, and which of several measured settings serves it best. Imports no torch."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

__all__ = ["GOALS", "Figures", "Goal", "best_for"]

Goal = Literal["throughput", "latency", "memory"]

GOALS: tuple[Goal, ...] = ("throughput", "latency", "memory")

# What a setting must be better by than one that asks less of the machine.
_NOISE_RATIO = 0.01

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Figures:
    """What a setting was measured at.

    Attributes:
        samples_per_second: Throughput.
        batch_ms: Time from batch to batch that 95 % of them stay within, in milliseconds.
        memory_bytes: What the setting takes of the memory that it is about; None where it was not
            measured.
    """

    samples_per_second: float
    batch_ms: float
    memory_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def best_for(
    goal: Goal, candidates: Mapping[_Key, Figures], *, least_speed_ratio: float = 0.5
) -> _Key:
    """Pick a setting.

    For `throughput` the one with the most samples per second. For `latency` the one whose batches
    come most evenly: the shortest `batch_ms`. For `memory` the one that takes the least, among
    those that keep a share of the highest throughput; unknown memory counts as the most.

    Args:
        goal: What is wanted.
        candidates: Figures by setting, one at least; first those that ask less of the machine,
            which win against others that are better by no more than the noise.
        least_speed_ratio: That share.
    """
    fastest = max(figures.samples_per_second for figures in candidates.values())
    kept = dict(candidates)
    if goal == "memory":
        least = least_speed_ratio * fastest
        kept = {key: f for key, f in kept.items() if f.samples_per_second >= least}
    costs = {key: _cost(goal, figures) for key, figures in kept.items()}
    limit = min(costs.values()) * (1 + (0 if goal == "memory" else _NOISE_RATIO))
    return next(key for key, cost in costs.items() if cost <= limit)


def _cost(goal: Goal, figures: Figures) -> float:
    if goal == "throughput":
        return 1 / max(figures.samples_per_second, 1e-9)
    if goal == "latency":
        return figures.batch_ms
    return float("inf") if figures.memory_bytes is None else figures.memory_bytes
