"""Unions, gaps and overlaps of time, each in one pass over what is sorted."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["Interval", "gaps", "length_us", "merged", "overlaps_us"]

Interval = tuple[float, float]


def merged(spans: Iterable[Any], start_us: float, end_us: float) -> list[Interval]:
    """Merge spans that touch or overlap, cut to a window.

    Args:
        spans: Sorted by their start; `start_us` and `end_us` come first in each.
        start_us: Of the window.
        end_us: Of the window.
    """
    result: list[Interval] = []
    for span in spans:
        first, last = max(span[0], start_us), min(span[1], end_us)
        if first >= last:
            continue
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def gaps(busy: Sequence[Interval], start_us: float, end_us: float) -> list[Interval]:
    """Return what merged intervals leave of a window."""
    edges = [(start_us, start_us), *busy, (end_us, end_us)]
    return [(before[1], after[0]) for before, after in pairwise(edges) if after[0] > before[1]]


def overlaps_us(these: Sequence[Interval], those: Sequence[Interval]) -> list[float]:
    """Return for each interval how much of it others cover; both are merged."""
    result, first = [], 0
    for start, end in these:
        while first < len(those) and those[first][1] <= start:
            first += 1
        covered, place = 0.0, first
        while place < len(those) and those[place][0] < end:
            covered += min(end, those[place][1]) - max(start, those[place][0])
            place += 1
        result.append(covered)
    return result


def length_us(intervals: Iterable[Interval]) -> float:
    """Add up lengths."""
    return sum(end - start for start, end in intervals)
