"""How a command prints its answer: tables of one width, or JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["WIDTH", "print_ending", "print_json", "table_console"]

WIDTH = 100


def table_console() -> Console:
    """Return where tables go: no wider than is read easily, and as wide in a file."""
    console = Console(highlight=False)
    if console.is_terminal and console.width <= WIDTH:
        return console
    return Console(width=WIDTH, highlight=False)


def print_ending(console: Console, written: Iterable[Path], command: str | None) -> None:
    """Name the files that were written, and the command that uses them, to be copied.

    Args:
        console: Where the table went.
        written: The files.
        command: On one line, however long; None for none.
    """
    for path in written:
        console.print(Text(f"written: {path}"), soft_wrap=True)
    if command is not None:
        console.print(Text(command, style="bold"), soft_wrap=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Print plain values for programs; raises `ValueError` for a number that JSON does not have."""
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
