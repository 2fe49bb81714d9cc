"""Comparing durations of two programs on a machine that drifts.

Step times are autocorrelated, and machines warm up and share their cores. So the unit is a
segment of many steps, segments alternate, the order is reversed from one round to the next
(ABBA), and the interval is a paired Student t interval on the logarithms of segment means.
"""

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = [
    "LEAST_PAIRS",
    "PairedRatio",
    "Spread",
    "abba_orders",
    "paired_ratio",
    "sign_flip_p",
    "spread",
    "student_t_quantile",
    "verdict",
]

LEAST_PAIRS = 5
"""With fewer pairs no verdict is given."""

_MOST_FLIPPED_PAIRS = 16  # 65,536 sign patterns


@dataclass(frozen=True)
class PairedRatio:
    """How many times as long A takes as B.

    Attributes:
        ratio: Geometric mean over the pairs.
        low: Lower bound of its confidence interval.
        high: Upper bound.
        ratio_of_medians: Median segment of A / median segment of B.
        sign_flip_p: Chance of a difference at least as large when A and B are the same; None
            above 16 pairs.
        pairs: Number of pairs.
    """

    ratio: float
    low: float
    high: float
    ratio_of_medians: float
    sign_flip_p: float | None
    pairs: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return plain values for a result file."""
        return asdict(self)


@dataclass(frozen=True)
class Spread:
    """The middle of some durations, with a confidence interval over segments.

    Attributes:
        value: Geometric mean.
        low: Lower bound.
        high: Upper bound.
    """

    value: float
    low: float
    high: float


def abba_orders(names: Sequence[str], rounds: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Deal out the order of the contestants in each round.

    Every second round runs the round before it backwards, so that a steady drift cancels; which
    order a couple of rounds begins with is random.

    Args:
        names: The contestants.
        rounds: How many times each of them runs.
        seed: Seed of the random orders.
    """
    shuffled = random.Random(seed)
    orders: list[tuple[str, ...]] = []
    while len(orders) < rounds:
        order = tuple(shuffled.sample(names, len(names)))
        orders += [order, order[::-1]]
    return orders[:rounds]


def paired_ratio(
    a_s: Sequence[float], b_s: Sequence[float], confidence: float = 0.95
) -> PairedRatio:
    """Compare two programs by segments that ran in pairs.

    Args:
        a_s: Mean step of each segment of A, in seconds.
        b_s: The same of B; the i-th segments ran in the same round.
        confidence: Of the interval.

    Raises:
        ValueError: With fewer than two pairs, segments without a partner, or times that are not
            above 0.
    """
    if len(a_s) != len(b_s):
        raise ValueError(f"{len(a_s)} segments of A, {len(b_s)} of B: they come in pairs")
    if min((*a_s, *b_s), default=0.0) <= 0:
        raise ValueError("a segment took no time")
    logs = [math.log(a / b) for a, b in zip(a_s, b_s, strict=True)]
    centre, half = _centre_and_half_width(logs, confidence)
    return PairedRatio(
        ratio=math.exp(centre),
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        ratio_of_medians=statistics.median(a_s) / statistics.median(b_s),
        sign_flip_p=sign_flip_p(logs) if len(logs) <= _MOST_FLIPPED_PAIRS else None,
        pairs=len(logs),
    )


def spread(values: Sequence[float], confidence: float = 0.95) -> Spread:
    """Average the segments of one program.

    Args:
        values: Above 0, one per segment.
        confidence: Of the interval.

    Raises:
        ValueError: With fewer than two segments.
    """
    centre, half = _centre_and_half_width([math.log(value) for value in values], confidence)
    return Spread(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Compute the exact two-sided sign-flip test of a mean difference.

    Args:
        differences: One per pair; all 2^n patterns of signs are tried.
    """
    observed = abs(sum(differences))
    tolerance = 1e-12 * max(1.0, observed)
    flipped = (
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    )
    extreme = sum(total >= observed - tolerance for total in flipped)
    return float(extreme / 2 ** len(differences))


def student_t_quantile(probability: float, degrees: int) -> float:
    """Invert Student's t distribution by bisection.

    The distribution function for whole degrees of freedom is a finite sum (Abramowitz and Stegun
    26.7.3 and 26.7.4), so neither a table nor SciPy is needed.

    Args:
        probability: Above 0.5 and below 1, such as 0.975.
        degrees: Degrees of freedom, at least 1.

    Raises:
        ValueError: Out of these ranges.
    """
    if not 0.5 < probability < 1 or degrees < 1:
        raise ValueError(f"no t quantile of {probability} with {degrees} degrees of freedom")
    # In the angle, so that also the long tail of one degree of freedom lies in a bounded range.
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        angle = (low + high) / 2
        if 0.5 + _central_probability(angle, degrees) / 2 < probability:
            low = angle
        else:
            high = angle
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def verdict(low: float, high: float, goal: str, pairs: int = LEAST_PAIRS) -> str:
    """Say whether a goal is met, which the whole interval has to agree on.

    Args:
        low: Lower bound of the figure's interval.
        high: Upper bound.
        goal: Such as `<= 1.05` or `>= 1.5`.
        pairs: How many pairs the interval rests on.

    Returns:
        `met`, `missed`, or `not decided` when the goal lies inside the interval or the pairs are
        fewer than `LEAST_PAIRS`.

    Raises:
        ValueError: When the goal is worded in another way.
    """
    sign, _, number = goal.partition(" ")
    if sign not in ("<=", ">="):
        raise ValueError(f"a goal is worded '<= number' or '>= number', not {goal!r}")
    limit = float(number)
    if pairs < LEAST_PAIRS or low < limit < high:
        return "not decided"
    return "met" if (high <= limit if sign == "<=" else low >= limit) else "missed"


def _centre_and_half_width(logs: Sequence[float], confidence: float) -> tuple[float, float]:
    if len(logs) < 2:
        raise ValueError("an interval needs at least two segments")
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    return statistics.fmean(logs), error * student_t_quantile((1 + confidence) / 2, len(logs) - 1)


def _central_probability(angle: float, degrees: int) -> float:
    """Return the probability of |t| < tan(angle) * sqrt(degrees)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2:
        term, total = cosine, cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        return 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for k in range(2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return sine * total
