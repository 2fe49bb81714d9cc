"""How much a card can do, from its memory and its predicted speed alone; its name has no part."""

from dataclasses import asdict, dataclass
from typing import Any

from gpuopt.checks.planned_speed import PlannedSpeed, plan_speed
from gpuopt.checks.request import CheckRequest
from gpuopt.hardware import Gpu

__all__ = ["REFERENCE_MODEL", "REFERENCE_SIZE", "TIERS", "Tier", "reference_speed", "tier_of"]

# The task that cards are compared at, whatever model is asked for.
REFERENCE_MODEL = "convnext_base.fb_in22k_ft_in1k_384"
REFERENCE_SIZE = 384
# (name, least samples at once, least samples a second in training), highest first. The guide's
# words, for its 24 GB, 10 GB and 8 GB cards of that rank.
_LIMITS = (("high-end", 32, 90.0), ("mid-range", 16, 45.0), ("budget", 8, 20.0))
TIERS = (*(name for name, _, _ in _LIMITS), "low-end")


@dataclass(frozen=True)
class Tier:
    """The rank of a card.

    Attributes:
        name: One of `TIERS`.
        reason: The figures behind it, in one clause.
        limit: What keeps it from the next one: `memory`, `speed`, `both`, or empty.
    """

    name: str
    reason: str
    limit: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "evidence": "predicted"}


def reference_speed(request: CheckRequest, gpu: Gpu) -> PlannedSpeed:
    """Predict how the reference model runs on a card; raises as `plan_speed`."""
    return plan_speed(gpu, {"name": REFERENCE_MODEL}, REFERENCE_SIZE, cache_dir=request.cache_dir)


def tier_of(speed: PlannedSpeed) -> Tier:
    """Rank a card.

    Args:
        speed: Of the reference model. Where the rate is unknown, the memory alone decides; the
            processors have no memory of their own, and their speed decides.
    """
    samples = speed.largest
    rate = None if speed.train_per_s is None else speed.train_per_s.value
    ranks = [
        (
            samples is None or samples >= least_samples,
            rate is None or rate >= least_rate,
        )
        for _, least_samples, least_rate in _LIMITS
    ]
    place = next((i for i, rank in enumerate(ranks) if all(rank)), len(_LIMITS))
    limit = "" if place == 0 else _limit(ranks[place - 1])
    return Tier(TIERS[place], _reason(place, samples, rate), limit)


def _limit(rank: tuple[bool, bool]) -> str:
    has_memory, has_speed = rank
    if not has_memory and not has_speed:
        return "both"
    return "speed" if has_memory else "memory"


def _reason(place: int, samples: int | None, rate: float | None) -> str:
    holds = "" if samples is None else f"{samples} samples at once"
    runs = "speed unknown" if rate is None else f"{rate:.3g} samples/s in training"
    words = f"{REFERENCE_MODEL.partition('.')[0]} at {REFERENCE_SIZE} px: "
    words += ", ".join(part for part in (holds, runs) if part)
    if place == 0:
        return words
    name, least_samples, least_rate = _LIMITS[place - 1]
    return f"{words}; {name} needs {least_samples} and {least_rate:g}/s"
