"""Write what a profile says: tables as CSV, the figures as JSON, and one page for people."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpuopt.profiling.kernels import KernelRow
from gpuopt.profiling.operators import OperatorRow
from gpuopt.profiling.page import FileNote, profile_page
from gpuopt.profiling.profile import Profile
from gpuopt.storage import atomic_write, write_json, write_text

__all__ = ["PAGE", "new_folder", "write_profile"]

PAGE = "profile.html"
_SCHEMA = 1
_NOTES = {
    "trace.json.gz": "every event: open it in ui.perfetto.dev or chrome://tracing",
    "operators.csv": "all operators",
    "operators_by_shape.csv": "all operators, a row for each shape of inputs",
    "functions.csv": "the functions of Python that called them",
    "kernels.csv": "all kernels of the device",
    "copies.csv": "copies and fillings of memory on the device",
    "synchronisations.csv": "where the host waited for the device",
    "memory_timeline.csv": "memory that was held, after each change",
    "allocator_snapshot.pickle": "the CUDA allocator: open it in pytorch.org/memory_viz",
    "summary.json": "these figures for programs",
}


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder that is new; a number is added when there is one of that name.

    Raises:
        OSError: When it cannot be made.
    """
    folder, number = parent / name, 2
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise
            folder = parent / f"{name}_{number}"
            number += 1
        else:
            return folder


def write_profile(
    folder: Path, profile: Profile, facts: Mapping[str, str], choices: Sequence[str] = ()
) -> list[Path]:
    """Write all files of a profile beside its trace.

    Args:
        folder: Of the trace; files of other profiles in it would be replaced.
        profile: What was found.
        facts: What was run and where, for people.
        choices: Each automatic choice as a line.

    Returns:
        What is in the folder now, the page first.
    """
    for name, rows in _tables(profile).items():
        if rows:
            _write_csv(folder / name, rows)
    content = {"schema": _SCHEMA, **profile.as_dict(), "facts": dict(facts)}
    write_json(folder / "summary.json", {**content, "choices": list(choices)})
    there = [name for name in _NOTES if (folder / name).is_file()]
    notes = [FileNote(name, _NOTES[name]) for name in there]
    write_text(folder / PAGE, profile_page(profile, facts, notes, choices))
    return [folder / name for name in (PAGE, *there)]


def _tables(profile: Profile) -> dict[str, list[dict[str, Any]]]:
    steps = profile.steps
    return {
        "operators.csv": [_operator(row, steps, shapes=False) for row in profile.operators],
        "operators_by_shape.csv": [
            _operator(row, steps, shapes=True) for row in profile.operators_by_shape
        ],
        "functions.csv": [_operator(row, steps, shapes=False) for row in profile.sites],
        "kernels.csv": [_kernel(row, steps) for row in profile.kernels],
        "copies.csv": [_kernel(row, steps) for row in profile.copies],
        "synchronisations.csv": [
            {
                "name": row.name,
                "operator": row.operator,
                "calls_per_step": row.calls / steps,
                "host_ms_per_step": row.host_ms / steps,
            }
            for row in profile.waits
        ],
        "memory_timeline.csv": [asdict(point) for point in profile.memory],
    }


def _operator(row: OperatorRow, steps: int, *, shapes: bool) -> dict[str, Any]:
    return {
        "name": row.name,
        **({"shapes": row.shapes} if shapes else {}),
        "calls_per_step": row.calls / steps,
        "self_device_ms_per_step": row.self_device_ms / steps,
        "self_host_ms_per_step": row.self_host_ms / steps,
        "total_host_ms_per_step": row.total_host_ms / steps,
        "self_bytes_per_step": row.self_bytes / steps,
    }


def _kernel(row: KernelRow, steps: int) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": row.name,
        "calls_per_step": row.calls / steps,
        "device_ms_per_step": row.device_ms / steps,
        "mean_us": 1000 * row.device_ms / row.calls,
    }
    if row.bytes is not None:
        content |= {"bytes_per_step": row.bytes / steps, "gib_per_second": row.gib_per_second}
    return content


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names: Iterable[str] = dict.fromkeys(name for row in rows for name in row)
    with atomic_write(path, "w") as stream:
        writer = csv.DictWriter(stream, list(names))
        writer.writeheader()
        writer.writerows(rows)
