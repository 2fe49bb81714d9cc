"""Make class and file names fit to be shown, whatever is in them.

Names come from folders and CSV files of others. They may hold terminal escape codes, line breaks,
markup, scripts that no font here has, or a thousand letters. What is shown may differ from the
name; what is written to a CSV file never does (`gpuopt.report.predictions`).
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

__all__ = ["class_labels", "drawable", "drawable_or", "plain_text", "shortened"]

_NO_GLYPH = "□"


def plain_text(text: str) -> str:
    """Replace control and other invisible characters, and runs of white space, by one space."""
    visible = (" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)
    return " ".join("".join(visible).split())


def drawable(text: str) -> str:
    """Make a text that matplotlib draws without warning: plain, with a box per missing glyph."""
    # Only now: Matplotlib takes a while to import, and tables do not need it.
    from gpuopt.report.fonts import drawable_characters

    known = drawable_characters()
    return "".join(letter if ord(letter) in known else _NO_GLYPH for letter in plain_text(text))


def drawable_or(text: str, other: str) -> str:
    """Return a text of which every letter can be drawn, else another one."""
    return other if _NO_GLYPH in drawable(text) else text


def shortened(text: str, columns: int) -> str:
    """Cut out the middle of a text that is wider than a number of columns.

    The end is kept because names often differ there only. Wide characters take two columns.
    """
    if _columns(text) <= columns:
        return text
    tail_columns = (columns - 1) // 3
    head, tail = text, ""
    for letter in reversed(text):
        if _columns(letter + tail) > tail_columns:
            break
        tail = letter + tail
    while head and _columns(head) + 1 + _columns(tail) > columns:
        head = head[:-1]
    return f"{head.rstrip()}…{tail.lstrip()}"


def class_labels(names: Sequence[str], columns: int = 24) -> list[str]:
    """Return drawable, short and distinct labels for class names.

    A name of which nothing can be drawn becomes `class 3`; labels that are equal after
    shortening get their index.

    Args:
        names: Class names by index.
        columns: Greatest width.
    """
    labels: list[str] = []
    for index, name in enumerate(names):
        text = drawable(name)
        readable = any(letter != _NO_GLYPH and letter.isalnum() for letter in text)
        labels.append(shortened(text, columns) if readable else f"class {index}")
    count = Counter(labels)
    taken = {label for label in labels if count[label] == 1}
    for index, label in enumerate(labels):
        if count[label] > 1:
            labels[index] = _numbered(label, str(index), columns, taken)
            taken.add(labels[index])
    return labels


def _numbered(label: str, number: str, columns: int, taken: set[str]) -> str:
    """Put a number behind a label, in as many brackets as make it a new one."""
    numbered = label
    while numbered in taken or numbered == label:
        number = f"({number})"
        numbered = f"{shortened(label, columns - len(number) - 1)} {number}"
    return numbered


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
