"""The table of `benchmarks/README.md`, made from the results beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuopt.storage import write_text

__all__ = ["README", "render_table", "write_table"]

README = Path(__file__).parent / "README.md"
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"
_HEAD = "| measured | setting | result | 95 % interval | goal | |\n|---|---|---|---|---|---|"


def write_table(results: Path, readme: Path = README) -> None:
    """Replace the table in a page by that of the results.

    Args:
        results: Folder of result files.
        readme: The page, with a marker before and after the table.
    """
    before, _, rest = readme.read_text("utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    write_text(readme, f"{before}{_BEGIN}\n{render_table(results)}\n{_END}{after}")


def render_table(results: Path) -> str:
    """Lay out every result of a folder in Markdown, one table per file."""
    files = sorted(results.glob("*.json"))
    parts = [_section(json.loads(file.read_text("utf-8"))) for file in files]
    return "\n\n".join(parts) or "No results are recorded yet."


def _section(result: Mapping[str, Any]) -> str:
    machine, versions = result["hardware"], result["versions"]
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    place = (
        f"{gpu}{machine['cpus']} x {machine['cpu']}, torch {versions['torch']}, "
        f"{result['date_utc'][:10]}: `{result['command']}`"
    )
    lines = [_line(row) for row in result["rows"]]
    return "\n".join([f"### {result['name']}", "", place, "", _HEAD, *lines])


def _line(row: Mapping[str, Any]) -> str:
    interval = f"{row['low']:.4g} to {row['high']:.4g}" if row["low"] is not None else ""
    cells = (
        row["measure"],
        row["setting"],
        f"{row['value']:.4g} {row['unit']}".strip(),
        interval,
        row["goal"] or "",
        row["verdict"] or "",
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
