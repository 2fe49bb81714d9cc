"""Parts that many layouts share: headings, tables, text blocks, fields, sign-off lines."""

from collections.abc import Sequence

from gpuopt.data.drawing.canvas import Box, Canvas, mixed
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.marks import signature, stamp
from gpuopt.data.drawing.words import amount, date, person, phrase, place, value

__all__ = [
    "checkboxes",
    "fields",
    "grid",
    "heading",
    "label_rows",
    "paragraph",
    "sign_off",
]


def heading(
    canvas: Canvas, dice: Dice, box: Box, titles: Sequence[str], missing: float = 0.06
) -> None:
    """Write one of the titles, now and then cut off, underlined or framed."""
    if dice.chance(missing):
        return
    title = dice.pick(titles)
    align = dice.weighted({"m": 0.8, "l": 0.2})
    line = box.inset(box.width * 0.04, box.height * dice.uniform(0.08, 0.24))
    canvas.text(line, title, dice.uniform(50, 72), align=align, bold=dice.chance(0.5))
    if dice.chance(0.25):
        canvas.line([(box.left, box.bottom), (box.right, box.bottom)], width=2)
    elif dice.chance(0.12):
        canvas.frame(box, width=2)


def label_rows(
    canvas: Canvas, dice: Dice, box: Box, labels: Sequence[str], rows: int, pairs: int = 1
) -> None:
    """Draw a form: each row holds one or more pairs of a label cell and a value cell."""
    split, size = dice.uniform(0.24, 0.34), dice.uniform(17, 22)
    shade = mixed(canvas.paper, canvas.ink, 0.12) if dice.chance(0.45) else None
    for row in box.rows(*[1.0] * rows):
        for cell in row.columns(*[1.0] * pairs):
            name, content = cell.columns(split, 1 - split)
            if shade:
                canvas.fill(name, shade)
            canvas.frame(name)
            canvas.frame(content)
            canvas.text(name.inset(6, 2), dice.pick(labels), size, align="m")
            canvas.text(content.inset(8, 2), value(dice), size)


def fields(canvas: Canvas, dice: Dice, box: Box, labels: Sequence[str], rows: int) -> None:
    """Write label and value lines without any ruling."""
    size = dice.uniform(0.5, 0.68) * box.height / rows
    for row in box.rows(*[1.0] * rows):
        name, content = row.columns(0.3, 0.7)
        canvas.text(name, dice.pick(labels), min(size, 30) * 0.85)
        canvas.text(content, value(dice), min(size, 34))


def grid(
    canvas: Canvas,
    dice: Dice,
    box: Box,
    rows: int,
    widths: Sequence[float],
    *,
    filled: float = 0.8,
    money: bool = True,
) -> None:
    """Draw a table with a head row; the first column holds words, the others figures.

    Args:
        canvas: Where to draw.
        dice: Source of chance.
        box: The table's outline.
        rows: Rows below the head.
        widths: Shares of the columns.
        filled: Share of cells that hold something.
        money: Figures are sums of money; otherwise dates.
    """
    lines = box.rows(1.2, *[1.0] * rows)
    size = min(0.7 * lines[1].height, 20)
    if dice.chance(0.5):
        canvas.fill(lines[0], mixed(canvas.paper, canvas.ink, 0.14))
    every = 1 if dice.chance(0.75) else 2
    for line in lines[::every]:
        canvas.line([(line.left, line.top), (line.right, line.top)])
    for column in box.columns(*widths):
        canvas.frame(column)
        canvas.text(Box(*column[:3], lines[0].bottom).inset(4, 1), phrase(dice, 1), size, align="m")
    for line in lines[1:]:
        first, *others = line.columns(*widths)
        if not dice.chance(filled):
            continue
        canvas.text(first.inset(5, 0), phrase(dice, 1), size)
        for cell in others:
            if dice.chance(filled):
                text = amount(dice) if money else date(dice)
                canvas.text(cell.inset(5, 0), text, size, align="r" if money else "m")


def paragraph(canvas: Canvas, dice: Dice, box: Box, size: float = 18) -> None:
    """Fill a box with lines of words; the last line stays short."""
    count = max(1, int(box.height / (size * dice.uniform(1.5, 2.0))))
    lines = box.rows(*[1.0] * count)
    for number, line in enumerate(lines):
        words = max(1, int(line.width / (size * 4.2)))
        if number == count - 1:
            words = dice.integer(1, words)
        canvas.text(line, phrase(dice, words), size)


def checkboxes(canvas: Canvas, dice: Dice, box: Box, count: int) -> None:
    """Draw little squares with a word behind each, some of them crossed."""
    for cell in box.columns(*[1.0] * count):
        side = min(cell.height * 0.55, 20)
        square = Box(cell.left + 6, cell.top + (cell.height - side) / 2, 0, 0)
        square = Box(square.left, square.top, square.left + side, square.top + side)
        canvas.frame(square)
        if dice.chance(0.35):
            canvas.line([square[:2], square[2:]], width=2)
        canvas.text(Box(square.right + 6, cell.top, cell.right, cell.bottom), phrase(dice, 1), 18)


def sign_off(
    canvas: Canvas, dice: Dice, box: Box, kind: str, sealed: float = 0.75, side: float = 0.7
) -> None:
    """End a page: a date, an institution, a person who signs or seals.

    Args:
        canvas: Where to draw.
        dice: Source of chance.
        box: Where on the page.
        kind: What the institution is.
        sealed: Share of pages with a seal.
        side: Where the seal usually stands, as a share of the width.
    """
    day, institution, name = box.rows(1, 1.2, 1.2)
    centre = dice.chance(0.6)
    canvas.text(day, date(dice), 20, align="m" if centre else "l")
    canvas.text(institution, place(dice, kind), 28, align="m" if centre else "l", bold=True)
    canvas.text(name.part(0.35, 0, 0.75, 1), person(dice), 24)
    if dice.chance(sealed):
        middle = side + dice.uniform(-0.06, 0.06) if dice.chance(0.85) else dice.uniform(0.1, 0.9)
        stamp(canvas, dice, box.part(middle - 0.1, 0, middle + 0.1, 1))
    elif dice.chance(0.7):
        signature(canvas, dice, name.part(0.6, 0, 0.85, 1))
