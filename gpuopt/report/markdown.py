"""Terminal tables as Markdown, for an issue or a page."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["to_markdown"]


def to_markdown(shown: object) -> str:
    """Turn what a terminal shows into Markdown.

    Args:
        shown: A `Table`, a `Text`, words, a `Group` of such, or anything whose `__rich__` is one.

    Raises:
        TypeError: For anything else.
    """
    return "\n\n".join(part for part in _parts(shown) if part) + "\n"


def _parts(shown: object) -> Iterator[str]:
    if isinstance(shown, Group):
        for part in shown.renderables:
            yield from _parts(part)
    elif isinstance(shown, Table):
        yield from _table(shown)
    elif isinstance(shown, str | Text):
        yield _escaped(str(shown).strip())
    elif hasattr(shown, "__rich__"):
        yield from _parts(shown.__rich__())
    else:
        raise TypeError(f"{type(shown).__name__} has no Markdown")


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"**{_cell(table.title)}**"
    rows = [[_cell(cell) for cell in column.cells] for column in table.columns]
    headings = [_cell(column.header) if table.show_header else "" for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    lines = [headings, rules, *map(list, zip(*rows, strict=True))]
    yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if table.caption:
        yield _cell(table.caption)


def _cell(cell: RenderableType) -> str:
    return _escaped(" ".join(str(cell).split()))


def _escaped(text: str) -> str:
    """Keep letters of names from being markup or the end of a cell."""
    for letter in "\\|*`<":
        text = text.replace(letter, f"\\{letter}")
    return text
