"""Small drawings for the page, as SVG within HTML."""

from collections.abc import Sequence
from html import escape

from gpuopt.profiling.memory_timeline import MemoryPoint, thinned
from gpuopt.profiling.shares import Share
from gpuopt.profiling.words import figure

__all__ = ["bar", "memory_curve", "stacked_bar", "tint"]

_MOST_POINTS = 600
_WIDTH, _HEIGHT = 600.0, 140.0


def tint(place: int) -> float:
    """Return the opacity of the accent colour for one of several parts, the largest first."""
    return max(0.18, 1.0 - 0.22 * place)


def bar(ratio: float) -> str:
    """Draw a bar as long as a share of its cell."""
    width = 100 * min(1.0, max(0.0, ratio))
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width:.2f}" height="8"/></svg>'
    )


def stacked_bar(shares: Sequence[Share]) -> str:
    """Draw the parts of a step beside each other."""
    parts, start = [], 0.0
    for place, share in enumerate(shares):
        width = 100 * max(0.0, share.ratio)
        parts.append(
            f'<rect x="{start:.3f}" width="{width:.3f}" height="10" '
            f'fill-opacity="{tint(place):.2f}"><title>{escape(share.name)}: {figure(share.ms)} ms, '
            f"{share.ratio:.1%}</title></rect>"
        )
        start += width
    names = ", ".join(f"{share.name} {share.ratio:.0%}" for share in shares)
    return (
        '<svg class="stack" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(names)}">{"".join(parts)}</svg>'
    )


def memory_curve(points: Sequence[MemoryPoint]) -> str:
    """Draw the memory that is held over time; needs at least two points."""
    points = thinned(points, _MOST_POINTS)
    lowest = min(0, *(point.allocated_bytes for point in points))
    highest = max(max(point.allocated_bytes for point in points), lowest + 1)
    first_ms, last_ms = points[0].ms, points[-1].ms
    span_ms = last_ms - first_ms or 1.0

    def place(point: MemoryPoint) -> tuple[float, float]:
        x = (point.ms - first_ms) / span_ms * _WIDTH
        y = _HEIGHT - (point.allocated_bytes - lowest) / (highest - lowest) * (_HEIGHT - 4) - 2
        return x, y

    path, before = [], None
    for x, y in map(place, points):
        path.append(f"M{x:.1f} {y:.1f}" if before is None else f"L{x:.1f} {before:.1f}V{y:.1f}")
        before = y
    line = "".join(path)
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" '
        f'role="img" aria-label="memory over {figure(span_ms)} ms">'
        f'<path class="area" d="{line}V{_HEIGHT:.0f}H0Z"/><path class="line" d="{line}"/></svg>'
    )
