"""The cheapest policy of views that is good and quick enough, or the nearest one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpuopt.measure import Interval
from gpuopt.tta.frontier import ScoredPolicy

__all__ = ["Option", "Recommendation", "mark_frontier", "recommend"]


@dataclass(frozen=True)
class Option:
    """A policy with its worth and its price.

    Attributes:
        scored: What it is worth.
        minutes: What it takes.
        is_on_frontier: Whether no policy that takes no longer had a higher macro-F1 on the half
            to select on.
    """

    scored: ScoredPolicy
    minutes: Interval
    is_on_frontier: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **self.scored.as_dict(),
            "minutes": self.minutes.as_dict(),
            "is_on_frontier": self.is_on_frontier,
        }


@dataclass(frozen=True)
class Recommendation:
    """What to take.

    Attributes:
        chosen: The policy; None when none is good and quick enough.
        nearest: The nearest one, when none is.
        reason: Why, in one clause.
    """

    chosen: Option | None
    nearest: Option | None
    reason: str


def mark_frontier(priced: Sequence[tuple[ScoredPolicy, Interval]]) -> list[Option]:
    """Mark the policies that no cheaper one beats, least time first.

    Judged on the half to select on: the other half stays out of every choice but the last.
    """
    cheapest_first = sorted(priced, key=lambda pair: (pair[1].value, len(pair[0].views)))
    best = float("-inf")
    options = []
    for scored, minutes in cheapest_first:
        options.append(Option(scored, minutes, is_on_frontier=scored.selection_f1 > best))
        best = max(best, scored.selection_f1)
    return options


def recommend(
    options: Sequence[Option], *, target_minutes: float | None, min_f1: float | None
) -> Recommendation:
    """Recommend one of the policies.

    With `min_f1` it is the cheapest whose interval lies above it, and within the time; the upper
    end of the time counts. Without, it is the likeliest within the time to be right, when it is
    surely better than no test-time augmentation, else none.

    Args:
        options: Least time first, `none` among them.
        target_minutes: Time that must not be exceeded; None: any.
        min_f1: Macro-F1 that the lower end of the interval must reach; None: any.
    """
    in_time = [o for o in options if target_minutes is None or o.minutes.high <= target_minutes]
    if not in_time:
        quickest = min(options, key=lambda option: option.minutes.high)
        return Recommendation(None, quickest, "which takes the least time")
    if min_f1 is not None:
        good = [option for option in in_time if option.scored.macro_f1.low >= min_f1]
        if good:
            return Recommendation(good[0], None, "the cheapest whose macro-F1 is surely enough")
        nearest = max(in_time, key=lambda option: option.scored.macro_f1.low)
        within = "" if target_minutes is None else " within the time"
        return Recommendation(None, nearest, f"whose macro-F1 is surest{within}")
    return Recommendation(*_best(in_time))


def _best(in_time: Sequence[Option]) -> tuple[Option, None, str]:
    """Choose on one half, and believe it when the other half confirms it."""
    likeliest = max(in_time, key=lambda option: option.scored.log_likelihood)
    gain = likeliest.scored.difference
    if gain is not None and gain.low > 0:
        return likeliest, None, "the likeliest to be right, and surely better than none"
    plain = [option for option in in_time if option.scored.difference is None]
    if gain is None or not plain:
        return likeliest, None, "the likeliest to be right"
    return plain[0], None, f"{likeliest.scored.name} is not surely better ({gain})"
