"""Certificates of hospitals: five classes on one layout.

A title, the patient's form, a body and a sign-off line. The classes differ in the title's words
in the body they usually have and in habits; in a few pages it is borrowed from a sibling.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gpuopt.data.drawing.canvas import Box, Canvas, mixed
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.marks import barcode
from gpuopt.data.drawing.parts import (
    checkboxes,
    fields,
    grid,
    heading,
    label_rows,
    paragraph,
    sign_off,
)
from gpuopt.data.drawing.words import LABELS, code, date, phrase

__all__ = ["CERTIFICATES", "draw_certificate"]


@dataclass(frozen=True)
class Certificate:
    """How one class fills the layout.

    Attributes:
        titles: What may stand on top.
        body: Name of the usual body.
        patient_rows: Fewest and most rows of the patient's form.
        pairs: Usual number of labelled cells in each of these rows; 0 for lines without ruling.
        body_share: Height of the body as a share of the page.
        sealed: Share of pages with a seal.
        side: Where the seal usually stands, as a share of the width.
    """

    titles: tuple[str, ...]
    body: str
    patient_rows: tuple[int, int]
    pairs: int
    body_share: float
    sealed: float
    side: float


CERTIFICATES = {
    "confirmation_of_admission_and_discharge": Certificate(
        ("ADMISSION AND DISCHARGE", "ADMISSION CONFIRMATION"), "stay", (2, 3), 2, 0.4, 0.85, 0.5
    ),
    "diagnosis": Certificate(
        ("CERTIFICATE OF DIAGNOSIS", "DIAGNOSIS"), "disease", (3, 5), 1, 0.46, 0.8, 0.85
    ),
    "medical_opinion": Certificate(
        ("MEDICAL OPINION", "OPINION"), "opinion", (2, 4), 0, 0.52, 0.5, 0.2
    ),
    "outpatient_certificate": Certificate(
        ("OUTPATIENT CERTIFICATE", "CERTIFICATE OF VISITS"), "visits", (2, 3), 1, 0.5, 0.85, 0.2
    ),
    "pregnancy_medical_expense_claim": Certificate(
        ("PREGNANCY EXPENSES CLAIM", "PREGNANCY CLAIM"), "claim", (4, 6), 2, 0.46, 0.4, 0.85
    ),
}
_BORROWED = 0.05


def _stay(canvas: Canvas, dice: Dice, box: Box) -> None:
    table, rest = box.rows(dice.uniform(0.45, 0.6), 0.4)
    shade = mixed(canvas.paper, canvas.ink, dice.uniform(0.08, 0.25))
    for row in table.rows(1, 1):
        for cell in row.columns(1, 1):
            name, day = cell.columns(0.34, 0.66)
            canvas.fill(name, shade)
            canvas.frame(name, width=2)
            canvas.frame(day, width=2)
            canvas.text(name.inset(5, 3), dice.pick(("Admitted", "Discharged", "Ward", "Days")), 20)
            canvas.text(day.inset(5, 3), date(dice), 26, align="m")
    paragraph(canvas, dice, rest.inset(6, 14))


def _disease(canvas: Canvas, dice: Dice, box: Box) -> None:
    table, rest = box.rows(dice.uniform(0.4, 0.6), 0.45)
    names, codes = table.columns(0.76, 0.24)
    canvas.frame(names)
    canvas.frame(codes)
    count = dice.integer(3, 5)
    found = dice.integer(1, 3)
    lines = zip(names.rows(*[1.0] * count), codes.rows(*[1.0] * count), strict=True)
    for number, (name, cell) in enumerate(lines):
        if number < found:
            canvas.text(name.inset(10, 4), phrase(dice, 3), 26)
            canvas.text(cell.inset(8, 4), code(dice), 26, align="m")
    paragraph(canvas, dice, rest.inset(6, 14))


def _opinion(canvas: Canvas, dice: Dice, box: Box) -> None:
    if dice.chance(0.7):
        canvas.frame(box)
    upper, lower = box.inset(14, 10).rows(dice.uniform(0.7, 1.3), 1)
    paragraph(canvas, dice, upper)
    paragraph(canvas, dice, lower.inset(0, 12))


def _visits(canvas: Canvas, dice: Dice, box: Box) -> None:
    table, rest = box.rows(dice.uniform(0.7, 0.9), 0.2)
    columns = [1.0] * dice.integer(3, 5)
    grid(canvas, dice, table, dice.integer(3, 7), columns, filled=0.7, money=False)
    paragraph(canvas, dice, rest.inset(6, 12))


def _claim(canvas: Canvas, dice: Dice, box: Box) -> None:
    for section in box.rows(*[1.0] * dice.integer(2, 3)):
        bar, choices, form = section.inset(0, 3).rows(0.7, 0.7, 2)
        canvas.fill(bar, mixed(canvas.paper, canvas.ink, dice.uniform(0.2, 0.5)))
        canvas.text(bar.inset(8, 2), phrase(dice, 2), 20)
        checkboxes(canvas, dice, choices, dice.integer(3, 5))
        label_rows(canvas, dice, form, LABELS["money"], 2, 2)


_BODIES: dict[str, Callable[[Canvas, Dice, Box], None]] = {
    "stay": _stay,
    "disease": _disease,
    "opinion": _opinion,
    "visits": _visits,
    "claim": _claim,
}


def draw_certificate(canvas: Canvas, dice: Dice, name: str) -> None:
    """Draw one page of the named certificate class."""
    kind = CERTIFICATES[name]
    page = canvas.page.inset(dice.uniform(30, 70), dice.uniform(25, 55))
    count = dice.integer(*kind.patient_rows)
    top, title, patient, body, end = page.rows(
        0.04,
        dice.uniform(0.09, 0.13),
        0.042 * count,
        kind.body_share * dice.uniform(0.88, 1.12),
        0.17,
    )
    if dice.chance(0.7):
        canvas.text(top, f"No. {dice.digits(4)}-{dice.digits(4)}", 16)
    if dice.chance(0.15):
        barcode(canvas, dice, top.part(0.68, 0, 1, 1))
    heading(canvas, dice, title, kind.titles)
    pairs = kind.pairs if dice.chance(0.85) else dice.integer(0, 2)
    if pairs:
        label_rows(canvas, dice, patient.inset(0, 2), LABELS["person"], count, pairs)
    else:
        fields(canvas, dice, patient.inset(0, 2), LABELS["person"], count)
    body_name = dice.pick(tuple(_BODIES)) if dice.chance(_BORROWED) else kind.body
    _BODIES[body_name](canvas, dice, body.inset(0, 8))
    sign_off(canvas, dice, end, "Hospital", kind.sealed, kind.side)
