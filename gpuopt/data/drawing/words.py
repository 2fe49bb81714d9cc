"""What documents say: words, names, dates and numbers."""

from gpuopt.data.drawing.dice import Dice

__all__ = ["LABELS", "amount", "code", "date", "person", "phrase", "place", "value"]

LABELS = {
    "person": ("Name", "Birth", "Sex", "Address", "Phone", "Number", "Age", "Resident no."),
    "care": ("Doctor", "Ward", "Hospital", "Licence", "Department", "Code", "Purpose", "Remarks"),
    "money": ("Amount", "Tax", "Total", "Paid", "Insured", "Balance", "Fee", "Method", "Card"),
    "vehicle": ("Plate", "Type", "Model", "Engine", "Chassis", "Owner", "Use", "Weight", "Fuel"),
    "work": ("Period", "School", "Company", "Position", "Degree", "Skill", "Result", "Place"),
}

_PLAIN = """
patient treatment result after care symptoms stable acute chronic history of pain observed period
rest weeks required visit examined confirmed issued at request for insurance the above is true to
our records medication daily dose tablet capsule syrup service room material test image nursing
meal injection guidance surgery anaesthesia emergency general basic special
"""
_GIVEN = "Min Jun Seo Ha Yuna Tae Ara Noah Emma Liam Mina Otto Ines Paul Rosa Kofi Lena Omar"
_FAMILY = "Kim Lee Park Choi Jung Kang Cho Yoon Berg Costa Meyer Silva Novak Ito Wang Diaz"
_TOWNS = "Hanbit Saebom Central River North Green Mirae Haneul Sejong Garden Lake Union"
_WORDS, _FIRST, _LAST, _PLACES = (text.split() for text in (_PLAIN, _GIVEN, _FAMILY, _TOWNS))


def phrase(dice: Dice, count: int) -> str:
    """Return a run of that many words."""
    return " ".join(dice.pick(_WORDS) for _ in range(count))


def person(dice: Dice) -> str:
    """Return somebody's name."""
    return f"{dice.pick(_FIRST)} {dice.pick(_LAST)}"


def place(dice: Dice, kind: str) -> str:
    """Return the name of an institution of some kind, such as a hospital."""
    return f"{dice.pick(_PLACES)} {kind}"


def date(dice: Dice) -> str:
    """Return a date, written in one of three ways."""
    year, month, day = dice.integer(1960, 2024), dice.integer(1, 12), dice.integer(1, 28)
    form = dice.pick(("{0}-{1:02}-{2:02}", "{0}. {1}. {2}.", "{2:02}/{1:02}/{0}"))
    return form.format(year, month, day)


def amount(dice: Dice) -> str:
    """Return a sum of money with separators."""
    return f"{dice.integer(1, 9999) * 10 ** dice.integer(1, 3):,}"


def code(dice: Dice) -> str:
    """Return a letter and digits, as of a disease or a file."""
    return f"{dice.pick('ABCEFHIJKMNRSZ')}{dice.digits(2)}.{dice.integer(0, 9)}"


def value(dice: Dice) -> str:
    """Return what may stand in a field of a form."""
    kind = dice.integer(0, 5)
    if kind == 0:
        return person(dice)
    if kind == 1:
        return date(dice)
    if kind == 2:
        return f"{dice.digits(6)}-{dice.digits(4)}"
    if kind == 3:
        return code(dice)
    return phrase(dice, dice.integer(1, 3))
