"""The 17 classes, how often each occurs, and one clean image of a class."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from gpuopt.data.drawing.canvas import Canvas, Colour
from gpuopt.data.drawing.cards import draw_card, draw_passport
from gpuopt.data.drawing.certificates import draw_certificate
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.letters import draw_account_number, draw_resume
from gpuopt.data.drawing.statements import draw_statement
from gpuopt.data.drawing.vehicles import draw_dashboard, draw_plate, draw_registration

__all__ = ["CLASS_NAMES", "SAMPLES_PER_CLASS", "Ground", "draw_document"]


@dataclass(frozen=True)
class _Kind:
    draw: Callable[[Canvas, Dice, str], None]
    surface: str
    count: int = 100


_KINDS = {
    "account_number": _Kind(draw_account_number, "page"),
    "pregnancy_medical_expense_claim": _Kind(draw_certificate, "page", 46),
    "car_dashboard": _Kind(draw_dashboard, "scene"),
    "confirmation_of_admission_and_discharge": _Kind(draw_certificate, "page"),
    "diagnosis": _Kind(draw_certificate, "page"),
    "driver_licence": _Kind(draw_card, "card"),
    "medical_bill_receipt": _Kind(draw_statement, "page"),
    "outpatient_certificate": _Kind(draw_certificate, "page"),
    "national_id_card": _Kind(draw_card, "card"),
    "passport": _Kind(draw_passport, "booklet"),
    "payment_confirmation": _Kind(draw_statement, "page"),
    "pharmaceutical_receipt": _Kind(draw_statement, "page"),
    "prescription": _Kind(draw_statement, "page"),
    "resume": _Kind(draw_resume, "page", 74),
    "medical_opinion": _Kind(draw_certificate, "page", 50),
    "vehicle_registration_certificate": _Kind(draw_registration, "page"),
    "vehicle_registration_plate": _Kind(draw_plate, "scene"),
}
CLASS_NAMES = tuple(_KINDS)
SAMPLES_PER_CLASS = tuple(kind.count for kind in _KINDS.values())
"""How many of 1,570 samples belong to each class, in the order of `CLASS_NAMES`."""

Ground = Colour
"""What surrounds a document: the colour that a turned image is filled up with."""


def draw_document(target: int, dice: Dice, size_px: int) -> tuple[Image.Image, Ground]:
    """Draw a clean document of one class.

    The frame's proportions are drawn before anything that depends on the class, so that an
    image's width and height say nothing about what it shows.

    Args:
        target: Row in `CLASS_NAMES`.
        dice: Source of chance, fresh for this image.
        size_px: Longest side in pixels.

    Returns:
        The RGB image, and the colour of the ground around the document.
    """
    long_px, short_px = size_px, round(size_px * dice.uniform(0.68, 0.82))
    width, height = (short_px, long_px) if dice.chance(0.6) else (long_px, short_px)
    name, kind = CLASS_NAMES[target], _KINDS[CLASS_NAMES[target]]
    paper, ink = _paper(dice), _ink(dice)
    if kind.surface == "scene" or (kind.surface == "page" and dice.chance(0.6)):
        canvas = Canvas(width, height, paper, ink)
        kind.draw(canvas, dice, name)
        return canvas.image, paper
    ground = _ground(dice)
    inner_width, inner_height = _FITS[kind.surface](dice, width, height)
    canvas = Canvas(inner_width, inner_height, paper, ink)
    kind.draw(canvas, dice, name)
    image = Image.new("RGB", (width, height), ground)
    left = round((width - inner_width) * dice.uniform(0.1, 0.9))
    top = round((height - inner_height) * dice.uniform(0.1, 0.9))
    image.paste(canvas.image, (left, top))
    return image, ground


def _paper(dice: Dice) -> Colour:
    base = dice.integer(205, 250)
    return base + dice.integer(-9, 5), base + dice.integer(-8, 5), base + dice.integer(-14, 5)


def _ink(dice: Dice) -> Colour:
    base = dice.integer(5, 90)
    return base, base, base + dice.integer(0, 30)


def _ground(dice: Dice) -> Colour:
    if dice.chance(0.4):  # a scanner's lid
        lid = dice.integer(225, 255)
        return lid, lid, lid
    base = dice.integer(40, 190)
    return base + dice.integer(0, 40), base + dice.integer(0, 20), base - dice.integer(0, 30)


def _fit_page(dice: Dice, width: int, height: int) -> tuple[int, int]:
    if width > height and dice.chance(0.4):  # an upright page in a photo taken across
        inner = height * dice.uniform(0.9, 0.98)
        return round(inner * dice.uniform(0.7, 0.8)), round(inner)
    return round(width * dice.uniform(0.85, 0.97)), round(height * dice.uniform(0.85, 0.97))


def _fit_card(dice: Dice, width: int, height: int) -> tuple[int, int]:
    return _fit_ratio(dice, dice.uniform(1.36, 1.6), width, height)


def _fit_booklet(dice: Dice, width: int, height: int) -> tuple[int, int]:
    opened = dice.chance(0.6)
    return _fit_ratio(dice, dice.uniform(*((0.8, 1.0) if opened else (1.36, 1.5))), width, height)


def _fit_ratio(dice: Dice, ratio: float, width: int, height: int) -> tuple[int, int]:
    inner = min(width, height * ratio) * dice.uniform(0.9, 0.99)
    return round(inner), round(inner / ratio)


_FITS = {"page": _fit_page, "card": _fit_card, "booklet": _fit_booklet}
