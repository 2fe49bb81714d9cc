"""Three classes around a car: its dashboard, its plate, its registration certificate."""

import math

from gpuopt.data.drawing.canvas import RED, WHITE, Box, Canvas, Colour, mixed
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.marks import barcode
from gpuopt.data.drawing.parts import grid, heading, label_rows, paragraph, sign_off
from gpuopt.data.drawing.words import LABELS, phrase

__all__ = ["draw_dashboard", "draw_plate", "draw_registration"]


def _gauge(canvas: Canvas, dice: Dice, box: Box, bright: Colour) -> None:
    canvas.ring(box, mixed(bright, (0, 0, 0), 0.4), 6)
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    radius = box.width / 2
    for tick in range(11):
        angle = math.radians(135 + 27 * tick)
        ends = [
            (x + math.cos(angle) * r, y + math.sin(angle) * r)
            for r in (radius * 0.8, radius * 0.93)
        ]
        canvas.line(ends, bright, 4)
    angle = math.radians(dice.uniform(135, 405))
    tip = (x + math.cos(angle) * radius * 0.75, y + math.sin(angle) * radius * 0.75)
    canvas.line([(x, y), tip], dice.pick((RED, (240, 120, 30), WHITE)), 8)
    canvas.disc(Box(x - 14, y - 14, x + 14, y + 14), bright)


def draw_dashboard(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw one to three round gauges with a mileage display (class `name`)."""
    shade = dice.integer(12, 70)
    canvas.fill(canvas.page, (shade, shade, shade + dice.integer(0, 14)))
    bright: Colour = dice.pick((WHITE, (190, 220, 255), (255, 214, 170), (180, 240, 190)))
    count = dice.weighted({1: 0.3, 2: 0.5, 3: 0.2})
    height = canvas.page.height
    span = min(canvas.page.width / count, height * 0.8) * dice.uniform(0.8, 1.0)
    y = height * dice.uniform(0.4, 0.55)
    for number in range(count):
        x = canvas.page.width * (number + 0.5) / count
        _gauge(canvas, dice, Box(x - span / 2, y - span / 2, x + span / 2, y + span / 2), bright)
    display = canvas.page.part(0.3, 0, 0.7, 1)
    top = min(y + span * dice.uniform(0.2, 0.5), height - 90)
    panel = Box(display.left, top, display.right, top + 76)
    canvas.fill(panel, mixed((10, 14, 18), bright, dice.uniform(0, 0.25)))
    canvas.text(panel.inset(10, 8), f"{dice.integer(120, 240000)} km", 62, colour=bright, align="m")


def draw_plate(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw a number plate on the end of a car, near or far (class `name`)."""
    body: Colour = dice.pick(
        (
            (30, 32, 38),
            (190, 192, 196),
            (230, 230, 228),
            (90, 20, 24),
            (30, 50, 100),
            (110, 112, 115),
        )
    )
    page = canvas.page
    canvas.fill(page, mixed(body, (128, 128, 128), dice.uniform(0, 0.25)))
    crease = page.height * dice.uniform(0.2, 0.4)
    canvas.fill(Box(0, crease, page.right, crease + 24), mixed(body, WHITE, 0.25))
    canvas.fill(Box(0, page.height * 0.82, page.right, page.bottom), mixed(body, (0, 0, 0), 0.6))
    if dice.chance(0.5):
        for side in (page.part(0, 0.12, 0.2, 0.3), page.part(0.8, 0.12, 1, 0.3)):
            canvas.fill(side, dice.pick((RED, (235, 235, 225))))
    width = page.width * dice.uniform(0.45, 0.92)
    height = width * dice.pick((0.22, 0.24, 0.46))
    left, top = dice.uniform(0, page.width - width), page.height * dice.uniform(0.35, 0.6)
    plate = Box(left, top, left + width, min(top + height, page.bottom - 20))
    ground, letters = dice.pick(
        (
            (WHITE, (25, 25, 30)),
            ((245, 205, 60), (25, 25, 30)),
            ((40, 110, 70), WHITE),
            ((225, 235, 240), (20, 40, 90)),
        )
    )
    canvas.fill(plate, ground)
    canvas.frame(plate, letters, 5)
    canvas.text(
        plate.inset(width * 0.06, 8), _plate_number(dice), 400, colour=letters, align="m", bold=True
    )


def _plate_number(dice: Dice) -> str:
    return f"{dice.digits(dice.integer(2, 3))} {dice.pick('ABDEGHKMNRSTUVY')} {dice.digits(4)}"


def draw_registration(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw the dense form of a vehicle registration certificate (class `name`)."""
    page = canvas.page.inset(dice.uniform(25, 60), dice.uniform(20, 50))
    if dice.chance(0.7):
        canvas.frame(canvas.page.inset(16), width=dice.uniform(4, 9))
    title, plate, form, second, text, end = page.rows(
        dice.uniform(0.09, 0.12), 0.08, dice.uniform(0.26, 0.4), dice.uniform(0.16, 0.28), 0.1, 0.14
    )
    heading(canvas, dice, title, ("VEHICLE REGISTRATION", "REGISTRATION CERTIFICATE"))
    if dice.chance(0.85):
        number = (
            plate.part(0.5, 0.05, 1, 0.9) if dice.chance(0.5) else plate.part(0, 0.05, 0.5, 0.9)
        )
        canvas.frame(number, width=3)
        canvas.text(number.inset(10, 4), _plate_number(dice), 56, align="m", bold=True)
    label_rows(canvas, dice, form.inset(0, 3), LABELS["vehicle"], dice.integer(5, 8), 2)
    if dice.chance(0.6):
        left, right = second.inset(0, 5).columns(1, 1)
        canvas.text(left.part(0, 0, 1, 0.16), phrase(dice, 2), 20)
        label_rows(canvas, dice, left.part(0, 0.18, 0.97, 1), LABELS["vehicle"], 4, 1)
        label_rows(canvas, dice, right.part(0.03, 0.18, 1, 1), LABELS["vehicle"], 4, 1)
    else:
        grid(
            canvas, dice, second.inset(0, 5), dice.integer(4, 7), [1.0] * 4, filled=0.4, money=False
        )
    paragraph(canvas, dice, text.inset(4, 8), 17)
    sign_off(canvas, dice, end, "City", 0.85)
    if dice.chance(0.3):
        barcode(canvas, dice, end.part(0, 0.5, 0.3, 0.95))
