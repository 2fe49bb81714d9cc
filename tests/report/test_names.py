import pytest

from gpuopt.report import class_labels, plain_text, shortened
from gpuopt.report.fonts import drawable_characters
from gpuopt.report.names import drawable, drawable_or

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "한글 클래스",
    "$\\frac{x$",
    "a\x1b[31mred\n\tline",
    "x" * 500,
    "x" * 499 + "y",
    "",
    "=1+1",
    "\udc80bad",
    "evil\u202egnp.exe",
    "nul\0byte",
]


def test_invisible_characters_become_spaces():
    assert plain_text("a\x1b[31m\n\tb\u202e\0 \udc80 c") == "a [31m b c"
    assert plain_text("진단서 <b>[x]</b>") == "진단서 <b>[x]</b>"


@pytest.mark.parametrize("columns", [5, 9, 24])
def test_long_names_keep_both_ends_and_short_ones_stay(columns):
    name = "application_for_payment_of_medical_expenses"
    short = shortened(name, columns)
    head, tail = short.split("…")
    assert len(short) <= columns
    assert name.startswith(head)
    assert name.endswith(tail)
    assert tail
    assert shortened("resume"[:columns], columns) == "resume"[:columns]


def test_wide_characters_take_two_columns():
    assert shortened("한글" * 4, 16) == "한글" * 4
    assert len(shortened("한글" * 20, 16)) == 8


def test_labels_are_distinct_short_and_drawable():
    labels = class_labels(HOSTILE, 20)
    assert len(set(labels)) == len(HOSTILE)
    assert all(0 < len(label) <= 20 for label in labels)
    assert all(ord(letter) in drawable_characters() for label in labels for letter in label)


def test_equal_labels_get_their_index():
    assert class_labels(["dog", "dog\n", "cat"]) == ["dog (0)", "dog (1)", "cat"]
    long = class_labels(["x" * 40 + "a" + "y" * 40, "x" * 40 + "b" + "y" * 40], 20)
    assert long[0].endswith(" (0)")
    assert long[1].endswith(" (1)")


def test_an_index_does_not_make_a_label_equal_to_another():
    labels = class_labels(["dog", "dog", "dog (1)", "class 4", "\0"])
    assert len(set(labels)) == 5


def test_without_a_font_a_name_is_boxes_or_its_number(monkeypatch):
    latin = frozenset(map(ord, map(chr, range(32, 127))))
    monkeypatch.setattr("gpuopt.report.fonts.drawable_characters", lambda: latin)
    assert class_labels(["진단서", "서류 A4"]) == ["class 0", "□□ A4"]
    assert drawable("é") == "□"
    assert drawable_or("서류 A4", "imagefolder") == "imagefolder"
    assert drawable_or("A4", "imagefolder") == "A4"
