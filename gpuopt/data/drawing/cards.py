"""Cards with a portrait: driver's licence, identity card, passport."""

from dataclasses import dataclass

from gpuopt.data.drawing.canvas import WHITE, Box, Canvas, Colour, mixed
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.marks import portrait, signature, square_code, stamp
from gpuopt.data.drawing.words import date, person, place

__all__ = ["CARDS", "draw_card", "draw_passport"]

_TINTS: tuple[Colour, ...] = ((90, 140, 190), (200, 120, 140), (120, 170, 120), (180, 160, 90))


@dataclass(frozen=True)
class Card:
    """Habits of one class of cards; each card keeps to most of them.

    Attributes:
        titles: What may stand on top.
        photo_left: Share of cards whose portrait is at the left.
        band: Share of cards whose title stands on a coloured band.
        tint: Place in the list of tints.
    """

    titles: tuple[str, ...]
    photo_left: float
    band: float
    tint: int


CARDS = {
    "driver_licence": Card(("DRIVER LICENCE", "DRIVING LICENCE"), 0.9, 0.85, 2),
    "national_id_card": Card(("IDENTITY CARD", "RESIDENT CARD"), 0.12, 0.1, 0),
    "passport": Card(("PASSPORT", "PASSPORT  REPUBLIC"), 0.9, 0.05, 1),
}


def _security_print(canvas: Canvas, dice: Dice, box: Box, tint: int) -> Colour:
    colour = _TINTS[tint] if dice.chance(0.8) else dice.pick(_TINTS)
    canvas.fill(box, mixed(canvas.paper, colour, dice.uniform(0.1, 0.4)))
    pale = mixed(canvas.paper, colour, dice.uniform(0.3, 0.55))
    radius = min(box.width, box.height) * dice.uniform(0.06, 0.09)
    across, down = dice.uniform(0.45, 0.65), dice.uniform(0.4, 0.6)
    x, y = box.left + box.width * across, box.top + box.height * down
    for number in range(1, dice.integer(3, 5)):
        reach = radius * number
        canvas.ring(Box(x - reach, y - reach, x + reach, y + reach), pale, 2)
    return colour


def _title(canvas: Canvas, dice: Dice, box: Box, kind: Card, colour: Colour) -> None:
    banded = dice.chance(kind.band)
    if banded:
        canvas.fill(box, mixed(colour, (0, 0, 0), dice.uniform(0.1, 0.4)))
    if dice.chance(0.92):
        text = box.inset(30, 10).part(0 if dice.chance(0.6) else 0.3, 0, 1, 1)
        ink, bold = WHITE if banded else canvas.ink, dice.chance(0.6)
        canvas.text(text, dice.pick(kind.titles), dice.uniform(60, 84), colour=ink, bold=bold)


def _entries(canvas: Canvas, dice: Dice, box: Box, rows: int) -> None:
    size = dice.uniform(30, 42)
    for number, line in enumerate(box.rows(*[1.0] * rows)):
        texts = (person, date, _number, _address)
        canvas.text(line, texts[number % 4](dice), size, bold=number == 0)


def _number(dice: Dice) -> str:
    return f"{dice.digits(6)}-{dice.digits(7)}"


def _address(dice: Dice) -> str:
    return place(dice, "Street")


def draw_card(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw a licence or an identity card, as the name of the class says."""
    kind = CARDS[name]
    colour = _security_print(canvas, dice, canvas.page, kind.tint)
    title, middle, end = canvas.page.rows(0.2, dice.uniform(0.5, 0.58), 0.24)
    _title(canvas, dice, title, kind, colour)
    middle, end = middle.inset(35, 12), end.inset(35, 12)
    on_left = dice.chance(kind.photo_left)
    photo, text = middle.columns(0.3, 0.7) if on_left else middle.columns(0.7, 0.3)[::-1]
    portrait(canvas, dice, photo.part(0.04, 0.02, dice.uniform(0.88, 0.98), 0.98))
    _entries(canvas, dice, text.part(0.05, 0, 1, 1), dice.integer(4, 6))
    canvas.text(end.part(0.3, 0, 0.8, 0.45), date(dice), 34)
    canvas.text(end.part(0.3, 0.45, 0.8, 1), place(dice, "Office"), 38, bold=True)
    if name == "driver_licence" and dice.chance(0.7):
        portrait(canvas, dice, end.part(0.86, 0, 0.97, 1))
    elif dice.chance(0.7):
        stamp(canvas, dice, end.part(0.78, 0, 0.98, 1))
    if dice.chance(0.25):
        square_code(canvas, dice, end.part(0.02, 0, 0.2, 1))
    elif dice.chance(0.25):
        signature(canvas, dice, end.part(0.02, 0.2, 0.24, 0.9))


def draw_passport(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw a passport: its data page, and the page before it where the canvas is high enough."""
    kind, page = CARDS[name], canvas.page
    if page.height > 0.8 * page.width:  # two pages fit
        before, page = page.rows(dice.uniform(0.75, 0.95), 1)
        crest = _security_print(canvas, dice, before, kind.tint)
        canvas.line(
            [(0, before.bottom), (before.right, before.bottom)], mixed(crest, WHITE, 0.2), 6
        )
        canvas.text(before.part(0.1, 0.6, 0.9, 0.95), f"{place(dice, 'Republic')}", 40, align="m")
    colour = _security_print(canvas, dice, page, kind.tint)
    title, middle, end = page.rows(0.18, dice.uniform(0.52, 0.6), 0.24)
    _title(canvas, dice, title, kind, colour)
    photo, text = middle.inset(35, 8).columns(0.28, 0.72)
    if not dice.chance(kind.photo_left):
        text, photo = middle.inset(35, 8).columns(0.72, 0.28)
    portrait(canvas, dice, photo.part(0.04, 0.02, dice.uniform(0.88, 0.98), 0.98))
    _entries(canvas, dice, text.part(0.05, 0, 1, 1), dice.integer(5, 7))
    if dice.chance(0.93):
        for line in end.inset(30, 8).rows(1, 1):
            given = person(dice).replace(" ", "<<").upper()
            canvas.text(line, f"{f'P<{given}<<{dice.digits(7)}':<<36}", 46)
