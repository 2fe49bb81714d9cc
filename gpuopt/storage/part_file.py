"""How the parts of an unfinished output are called."""

from pathlib import Path

__all__ = ["has_parts", "part_file"]


def part_file(output: Path, number: int = 0) -> Path:
    """Name a part: `predictions.csv.part`, then `predictions.csv.part2` and so on.

    Args:
        output: The file that it will become.
        number: From 0.
    """
    return output.with_name(f"{output.name}.part{number + 1 if number else ''}")


def has_parts(output: Path) -> bool:
    """Tell whether there is any part of an output."""
    name = part_file(output).name
    try:
        siblings = [path.name for path in output.parent.iterdir()]
    except OSError:
        return False
    return any(
        sibling.startswith(name) and (sibling == name or sibling[len(name) :].isdecimal())
        for sibling in siblings
    )
