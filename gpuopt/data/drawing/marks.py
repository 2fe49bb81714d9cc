"""Marks on paper: stamps, signatures, barcodes, portraits, square codes."""

import math

from gpuopt.data.drawing.canvas import RED, Box, Canvas, Colour, mixed
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.words import phrase

__all__ = ["barcode", "portrait", "signature", "square_code", "stamp"]


def stamp(canvas: Canvas, dice: Dice, box: Box) -> None:
    """Press a round or square seal into the middle of a box."""
    side = min(box.width, box.height) * dice.uniform(0.8, 1.0)
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    seal = Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    colour = mixed(RED, canvas.paper, dice.uniform(0.0, 0.5))
    outline = canvas.ring if dice.chance(0.6) else canvas.frame
    outline(seal, colour, 4)
    if dice.chance(0.5):
        outline(seal.inset(side * 0.1), colour, 2)
    for line in seal.inset(side * 0.22).rows(1, 1):
        canvas.text(line, phrase(dice, 1)[:4].upper(), side * 0.3, colour=colour, align="m")


def signature(canvas: Canvas, dice: Dice, box: Box) -> None:
    """Scribble from the left to the right of a box."""
    points, turns, phase = [], dice.uniform(2, 5), dice.uniform(0, math.tau)
    for step in range(17):
        across = step / 16
        swing = math.sin(phase + across * turns * math.tau) * (1 - 0.5 * across)
        points.append(
            (
                box.left + box.width * (across + 0.05 * math.cos(phase + step * 1.9)),
                box.top + box.height * (0.5 + 0.45 * swing),
            )
        )
    colour: Colour = dice.pick(((30, 40, 120), (20, 20, 20), (50, 50, 90)))
    canvas.line(points, colour, 3)


def barcode(canvas: Canvas, dice: Dice, box: Box) -> None:
    """Fill a box with upright bars."""
    x = box.left
    while x < box.right - 8:
        bar = dice.integer(1, 3) * 2.6
        canvas.fill(Box(x, box.top, x + bar, box.bottom), canvas.ink)
        x += bar + dice.integer(1, 3) * 2.6


def square_code(canvas: Canvas, dice: Dice, box: Box) -> None:
    """Draw a square of dots, like a QR code, at the top left of a box."""
    cells = 9
    side = min(box.width, box.height) / cells
    for number in range(cells * cells):
        row, column = divmod(number, cells)
        corner = (row < 3 or row > 5) and (column < 3 or column > 5) and not row > 5 < column
        if corner or dice.chance(0.45):
            x, y = box.left + column * side, box.top + row * side
            canvas.fill(Box(x, y, x + side, y + side), canvas.ink)


def portrait(canvas: Canvas, dice: Dice, box: Box) -> None:
    """Draw a passport photo: a ground, shoulders, a head and hair."""
    ground: Colour = (dice.integer(150, 245), dice.integer(170, 245), dice.integer(180, 250))
    cloth: Colour = (dice.integer(10, 150), dice.integer(10, 150), dice.integer(20, 160))
    skin = mixed((245, 215, 190), (120, 80, 55), dice.uniform(0, 0.9))
    hair = mixed((25, 20, 18), (150, 110, 70), dice.uniform(0, 0.7))
    canvas.fill(box, ground)
    canvas.fill(box.part(0.18, 0.78, 0.82, 1), cloth)
    canvas.disc(box.part(0.12, 0.66, 0.88, 0.98), cloth)
    canvas.disc(box.part(0.26, 0.12, 0.74, 0.62), hair)
    canvas.disc(box.part(0.31, 0.22, 0.69, 0.72), skin)
    if dice.chance(0.4):
        canvas.fill(box.part(0.26, 0.38, 0.32, 0.75), hair)
        canvas.fill(box.part(0.68, 0.38, 0.74, 0.75), hair)
    canvas.frame(box, mixed(canvas.ink, ground, 0.4), 1)
