"""The fonts of all pictures, and what can be drawn with them on this machine."""

import functools

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties

__all__ = ["drawable_characters", "font"]

_LATIN = "DejaVu Sans"  # comes with matplotlib, so it is there on every machine
_OTHERS = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "Nanum Gothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Microsoft YaHei",
    "Hiragino Sans",
)


@functools.cache
def _families() -> tuple[str, ...]:
    """Fonts to draw with: the one of matplotlib, then those for Hangul and Han found here."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return (_LATIN, *(name for name in _OTHERS if name in installed))


@functools.cache
def drawable_characters() -> frozenset[int]:
    """Code points that can be drawn on this machine, both plain and bold."""
    drawable: set[int] = set()
    for family in _families():
        maps = [
            font_manager.get_font(
                font_manager.findfont(FontProperties(family=family, weight=weight))
            ).get_charmap()
            for weight in ("normal", "bold")
        ]
        drawable |= maps[0].keys() & maps[1].keys()
    return frozenset(drawable)


def font(size: float, weight: str = "normal") -> FontProperties:
    """Return the common font at a size in points."""
    return FontProperties(family=list(_families()), size=size, weight=weight)
