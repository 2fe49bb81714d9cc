"""Papers about money and medicine: four classes made of headers, tables and totals."""

from gpuopt.data.drawing.canvas import Box, Canvas, mixed
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.marks import barcode, square_code, stamp
from gpuopt.data.drawing.parts import fields, grid, heading, label_rows, paragraph, sign_off
from gpuopt.data.drawing.words import LABELS, amount, date, phrase, place

__all__ = ["STATEMENTS", "draw_statement"]

_TITLES = {
    "medical_bill_receipt": ("MEDICAL BILL RECEIPT", "HOSPITAL BILL", "MEDICAL EXPENSES"),
    "pharmaceutical_receipt": ("PHARMACY RECEIPT", "DRUG RECEIPT", "PHARMACEUTICAL BILL"),
    "prescription": ("PRESCRIPTION", "OUTPATIENT PRESCRIPTION"),
    "payment_confirmation": ("PAYMENT CONFIRMATION", "CONFIRMATION OF PAYMENT", "RECEIPT"),
}
STATEMENTS = tuple(_TITLES)


def _totals(canvas: Canvas, dice: Dice, box: Box, rows: int) -> None:
    canvas.frame(box, width=2)
    for line in box.rows(*[1.0] * rows, 1.5)[:-1]:
        canvas.line([(line.left, line.bottom), (line.right, line.bottom)])
        canvas.text(line.inset(6, 1), dice.pick(LABELS["money"]), 18)
        canvas.text(line.inset(6, 1), amount(dice), 19, align="r")
    last = box.rows(*[1.0] * rows, 1.5)[-1]
    canvas.fill(last.inset(2), mixed(canvas.paper, canvas.ink, 0.15))
    canvas.text(last.inset(6, 1), "Total", 22)
    canvas.text(last.inset(6, 1), amount(dice), 28, align="r", bold=True)


def _bill(canvas: Canvas, dice: Dice, box: Box) -> None:
    head, middle, end = box.rows(0.13, dice.uniform(0.55, 0.7), 0.12)
    label_rows(canvas, dice, head, LABELS["person"], 2, dice.integer(2, 3))
    items, sums = middle.inset(0, 6).columns(dice.uniform(0.58, 0.7), 0.34)
    widths = (1.6, *[1.0] * dice.integer(2, 4))
    grid(canvas, dice, items, dice.integer(10, 18), widths, filled=0.7)
    _totals(canvas, dice, sums, dice.integer(5, 9))
    sign_off(canvas, dice, end, "Hospital", 0.7, 0.85)


def _pharmacy(canvas: Canvas, dice: Dice, box: Box) -> None:
    head, middle, end = box.rows(0.12, dice.uniform(0.45, 0.6), 0.22)
    label_rows(canvas, dice, head, LABELS["person"], 2, dice.integer(1, 2))
    if dice.chance(0.85):
        notes, items = middle.inset(0, 6).columns(dice.uniform(0.3, 0.45), 0.65)
        canvas.fill(notes, mixed(canvas.paper, canvas.ink, dice.uniform(0, 0.2)))
        canvas.frame(notes, width=2)
        paragraph(canvas, dice, notes.inset(8), 17)
    else:
        items = middle.inset(0, 6)
    grid(canvas, dice, items, dice.integer(6, 12), (2.0, *[1.0] * dice.integer(2, 3)), filled=0.75)
    left, right = end.columns(0.5, 0.5)
    _totals(canvas, dice, right, dice.integer(2, 4))
    sign_off(canvas, dice, left.inset(4), "Pharmacy", 0.5)


def _prescription(canvas: Canvas, dice: Dice, box: Box) -> None:
    head, period, items, end = box.rows(0.22, 0.06, dice.uniform(0.34, 0.5), 0.22)
    patient, hospital = head.columns(1, 1)
    label_rows(canvas, dice, patient, LABELS["person"], 3)
    label_rows(canvas, dice, hospital, LABELS["care"], 3)
    if dice.chance(0.7):
        stamp(canvas, dice, hospital.part(0.7, 0.2, 1, 1))
    if dice.chance(0.8):
        canvas.fill(period, mixed(canvas.paper, canvas.ink, dice.uniform(0.2, 0.45)))
    widths = (3.0, *[0.8] * dice.integer(2, 3), 1.4)
    grid(
        canvas, dice, items.inset(0, 5), dice.integer(6, 11), widths, filled=dice.uniform(0.15, 0.5)
    )
    canvas.frame(period)
    canvas.text(period.inset(6, 2), f"{phrase(dice, 2)} {date(dice)}", 22)
    if dice.chance(0.6):
        label_rows(canvas, dice, end.inset(0, 5), LABELS["care"], dice.integer(3, 5), 2)
    else:
        paragraph(canvas, dice, end.inset(6, 10), 17)


def _payment(canvas: Canvas, dice: Dice, box: Box) -> None:
    body, total, text, end = box.rows(dice.uniform(0.4, 0.6), 0.09, 0.1, 0.2)
    rows = dice.integer(5, 10)
    if dice.chance(0.8):
        label_rows(canvas, dice, body, LABELS["money"], rows, 1)
    elif dice.chance(0.5):
        grid(canvas, dice, body, rows, (1.6, *[1.0] * dice.integer(2, 3)))
    else:
        fields(canvas, dice, body, LABELS["money"], rows)
    canvas.fill(total, mixed(canvas.paper, canvas.ink, dice.uniform(0.1, 0.45)))
    canvas.frame(total, width=4)
    canvas.text(total.inset(10, 4), "Total", 28)
    canvas.text(total.inset(10, 4), amount(dice), 44, align="r", bold=True)
    paragraph(canvas, dice, text.inset(4, 12), 19)
    sign_off(canvas, dice, end, "Company", 0.8, 0.5)


_BODIES = {
    "medical_bill_receipt": _bill,
    "pharmaceutical_receipt": _pharmacy,
    "prescription": _prescription,
    "payment_confirmation": _payment,
}


def draw_statement(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw one page of the named class; one in twenty borrows the layout of another."""
    page = canvas.page.inset(dice.uniform(25, 60), dice.uniform(20, 50))
    top, title, body = page.rows(0.05, dice.uniform(0.07, 0.1), 0.86)
    issuer = "Hospital" if dice.chance(0.5) else "Pharmacy"
    canvas.text(top.part(0, 0, 0.6, 1), place(dice, issuer), 20)
    if dice.chance(0.4):
        barcode(canvas, dice, top.part(0.66, 0, 1, 0.9))
    elif dice.chance(0.25):
        square_code(canvas, dice, top.part(0.92, 0, 1, 1.8))
    heading(canvas, dice, title.part(0, 0, 0.9, 1), _TITLES[name])
    layout = name if dice.chance(0.95) else dice.pick(STATEMENTS)
    _BODIES[layout](canvas, dice, body)
