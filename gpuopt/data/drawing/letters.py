"""Two classes of their own: bank-book pages with an account number, and résumés."""

from gpuopt.data.drawing.canvas import WHITE, Canvas, Colour
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.marks import barcode, portrait, stamp
from gpuopt.data.drawing.parts import fields, grid, heading, label_rows, paragraph, sign_off
from gpuopt.data.drawing.words import LABELS, date, person, place

__all__ = ["draw_account_number", "draw_resume"]


def draw_account_number(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw the first page of a bank book, or a slip with an account on it (class `name`)."""
    colour: Colour = (dice.integer(20, 120), dice.integer(50, 150), dice.integer(90, 190))
    page = canvas.page
    band, rest = page.rows(dice.uniform(0.14, 0.26), 0.78)
    bank = place(dice, "Bank")
    if dice.chance(0.6):
        canvas.fill(band, colour)
        canvas.text(band.inset(50, 15), bank, 54, colour=WHITE, align=dice.pick("lm"), bold=True)
    else:
        heading(canvas, dice, band.inset(40, 20), (bank, "ACCOUNT CERTIFICATE", "BANK BOOK"))
    owner, number, lines, end = rest.inset(55, 20).rows(1, dice.uniform(0.9, 1.6), 2.2, 1.4)
    canvas.text(owner.part(0, 0.2, 0.8, 0.9), f"{person(dice)}  {date(dice)}", 34)
    account = "-".join((dice.digits(3), dice.digits(dice.integer(2, 6)), dice.digits(6)))
    if dice.chance(0.4):
        canvas.frame(number.inset(0, number.height * 0.15), width=2)
    canvas.text(number.inset(12), account, dice.uniform(50, 84), align=dice.pick("lm"))
    if dice.chance(0.3):
        grid(canvas, dice, lines, dice.integer(4, 8), (1.2, 1, 1, 1), filled=0.6)
    elif dice.chance(0.5):
        fields(canvas, dice, lines, LABELS["money"], dice.integer(3, 6))
    else:
        label_rows(canvas, dice, lines, LABELS["money"], dice.integer(3, 5))
    if dice.chance(0.6):
        stamp(canvas, dice, end.part(0.6, 0.05, 0.9, 1))
    if dice.chance(0.4):
        barcode(canvas, dice, end.part(0, 0.4, 0.5, 0.9))


def draw_resume(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw a résumé with a photo, a form, a history and some text (class `name`)."""
    page = canvas.page.inset(dice.uniform(35, 65), dice.uniform(25, 50))
    title, top, history, text = page.rows(
        dice.uniform(0.08, 0.12), dice.uniform(0.2, 0.28), dice.uniform(0.3, 0.5), 0.2
    )
    heading(canvas, dice, title, ("RESUME", "CURRICULUM VITAE", "PERSONAL HISTORY"), 0.12)
    if dice.chance(0.9):
        width = min(0.28, 0.8 * top.height / top.width)  # a photo is higher than wide
        photo, form = top.columns(width, 1 - width)
        if dice.chance(0.25):
            form, photo = top.columns(1 - width, width)
        portrait(canvas, dice, photo.inset(8, 4))
    else:
        form = top
    label_rows(canvas, dice, form.inset(0, 4), LABELS["person"], dice.integer(3, 5), 2)
    parts = history.rows(*[1.0] * dice.integer(1, 3))
    for part in parts:
        widths = dice.pick(((1, 2, 1.4), (1.2, 1.2, 1.2, 1), (1.4, 3)))
        rows = max(2, dice.integer(6, 12) // len(parts))
        grid(canvas, dice, part.inset(0, 7), rows, widths, money=False, filled=0.75)
    if dice.chance(0.6):
        paragraph(canvas, dice, text.inset(4, 10), 18)
    else:
        sign_off(canvas, dice, text.part(0, 0.2, 1, 0.9), "School", 0.3)
