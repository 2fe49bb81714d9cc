"""A page to draw on, measured in thousandths of its longest side instead of pixels."""

import functools
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

__all__ = ["BLUE", "RED", "WHITE", "Box", "Canvas", "Colour", "mixed", "text_width"]

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
RED: Colour = (196, 44, 44)
BLUE: Colour = (40, 60, 150)


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; `share` is the part of the second one."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


class Box(NamedTuple):
    """A rectangle in thousandths of the page's longest side."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Distance from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Distance from top to bottom."""
        return self.bottom - self.top

    def inset(self, across: float, down: float | None = None) -> "Box":
        """Shrink by `across` at both sides and by `down` (or `across`) at top and bottom."""
        down = across if down is None else down
        return Box(self.left + across, self.top + down, self.right - across, self.bottom - down)

    def part(self, left: float, top: float, right: float, bottom: float) -> "Box":
        """Return the box inside that is given by shares of width and height."""
        return Box(
            self.left + self.width * left,
            self.top + self.height * top,
            self.left + self.width * right,
            self.top + self.height * bottom,
        )

    def rows(self, *shares: float) -> "list[Box]":
        """Cut into boxes below each other whose heights are in proportion to the shares."""
        total, start, boxes = sum(shares), 0.0, []
        for share in shares:
            boxes.append(self.part(0, start / total, 1, (start + share) / total))
            start += share
        return boxes

    def columns(self, *shares: float) -> "list[Box]":
        """Cut into boxes beside each other whose widths are in proportion to the shares."""
        total, start, boxes = sum(shares), 0.0, []
        for share in shares:
            boxes.append(self.part(start / total, 0, (start + share) / total, 1))
            start += share
        return boxes


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType, which draws the documents")
    return font


@functools.cache
def _advance(character: str) -> float:
    return _font(200).getlength(character) / 200


def text_width(text: str, size: float) -> float:
    """Return the width of a line in units, which does not depend on the pixel size."""
    return size * sum(map(_advance, text))


class Canvas:
    """A drawing surface with a paper and an ink colour.

    Args:
        width_px: Width in pixels.
        height_px: Height in pixels.
        paper: Colour of the ground.
        ink: Colour of text and lines unless another one is given.

    Attributes:
        image: What was drawn so far.
        page: The whole surface; its longer side is 1000 units.
    """

    def __init__(self, width_px: int, height_px: int, paper: Colour, ink: Colour) -> None:
        self.image = Image.new("RGB", (width_px, height_px), paper)
        self.paper, self.ink = paper, ink
        self._scale = max(width_px, height_px) / 1000
        self.page = Box(0, 0, width_px / self._scale, height_px / self._scale)
        self._draw = ImageDraw.Draw(self.image)

    def _pixels(self, box: Box) -> tuple[int, int, int, int]:
        left, top, right, bottom = (round(value * self._scale) for value in box)
        return left, top, max(left, right - 1), max(top, bottom - 1)

    def _width(self, width: float) -> int:
        return max(1, round(width * self._scale))

    def line(
        self, points: list[tuple[float, float]], colour: Colour | None = None, width: float = 1
    ) -> None:
        """Draw straight lines through the points."""
        scaled = [(round(x * self._scale), round(y * self._scale)) for x, y in points]
        self._draw.line(scaled, colour or self.ink, self._width(width))

    def frame(self, box: Box, colour: Colour | None = None, width: float = 1) -> None:
        """Draw the outline of a box."""
        self._draw.rectangle(self._pixels(box), None, colour or self.ink, self._width(width))

    def fill(self, box: Box, colour: Colour) -> None:
        """Fill a box."""
        self._draw.rectangle(self._pixels(box), colour)

    def ring(self, box: Box, colour: Colour | None = None, width: float = 3) -> None:
        """Draw the ellipse inside a box."""
        self._draw.ellipse(self._pixels(box), None, colour or self.ink, self._width(width))

    def disc(self, box: Box, colour: Colour) -> None:
        """Fill the ellipse inside a box."""
        self._draw.ellipse(self._pixels(box), colour)

    def arc(self, box: Box, start: float, end: float, colour: Colour, width: float) -> None:
        """Draw a part of the ellipse inside a box; angles in degrees, clockwise from the right."""
        self._draw.arc(self._pixels(box), start, end, colour, self._width(width))

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Fill the area between the points."""
        self._draw.polygon([(x * self._scale, y * self._scale) for x, y in points], colour)

    def text(
        self,
        box: Box,
        text: str,
        size: float,
        *,
        colour: Colour | None = None,
        align: str = "l",
        bold: bool = False,
    ) -> None:
        """Write one line in the vertical middle of a box, shrunk until it fits across.

        Args:
            box: Where to write.
            text: What to write; nothing is drawn when it is empty.
            size: Height of the font in units, at most; never more than the box's height.
            colour: The ink unless given.
            align: `l`, `m` or `r` for left, middle or right.
            bold: Thicken the strokes.
        """
        size = min(size, box.height, size * box.width / max(text_width(text, size), 1e-6))
        size_px = int(size * self._scale)
        if size_px < 3:
            return
        x = {"l": box.left, "m": (box.left + box.right) / 2, "r": box.right}[align]
        y = (box.top + box.bottom) / 2
        place, fill = (round(x * self._scale), round(y * self._scale)), colour or self.ink
        self._draw.text(place, text, fill, _font(size_px), anchor=align + "m")
        if bold:  # Aileron Regular is the only face there is: a second pass thickens it
            shifted = (place[0] + max(1, size_px // 14), place[1])
            self._draw.text(shifted, text, fill, _font(size_px), anchor=align + "m")
