"""Figures as people read them."""

__all__ = ["count_text", "figure", "percent"]


def figure(value: float) -> str:
    """Word a figure with about three digits that count: `1,240`, `38.4`, `0.0815`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(ratio: float) -> str:
    """Word a share: `33.3`."""
    return f"{100 * ratio:.1f}"


def count_text(value: float) -> str:
    """Word how often something happens in a step: `12`, `0.2`."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
