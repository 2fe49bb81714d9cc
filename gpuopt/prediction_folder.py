"""Where a prediction is written, and where one that was cut short goes on. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuopt.errors import InputError
from gpuopt.storage import has_parts, part_file

__all__ = ["PREDICTIONS", "folder_of_prediction"]

PREDICTIONS = "predictions.csv"


def folder_of_prediction(config: Mapping[str, Any], root: Path) -> Path | None:
    """Decide which folder a prediction works in.

    An output whose parts are still there is not complete: what is written beside it may be missing.

    Args:
        config: With `output`, and `resume` where the command can be gone on with.
        root: Where predictions without an `output` lie, each in a folder of its own.

    Returns:
        The folder; None for a new one.

    Raises:
        InputError: When the output exists or was cut short and shall not be gone on with, and when
            there is nothing to go on with.
    """
    output = Path(str(config["output"])).expanduser() if config["output"] else None
    resume = config.get("resume")
    if output is not None:
        _check_output(output, begins=resume in (None, False))
    if resume in (None, False):
        return None if output is None else output.parent
    if resume is True:
        place = output or _latest_cut_short(root)
    else:
        folder = Path(str(resume)).expanduser()
        place = folder / (output.name if output else PREDICTIONS)
        if output is not None and place.absolute() != output.absolute():
            raise InputError(
                f"resume={resume} and output={output} name two folders: give one of them"
            )
    if not has_parts(place):
        if place.exists():
            raise InputError(f"{place} exists: that prediction is complete")
        raise InputError(f"{place} was not cut short: leave resume out to begin")
    return place.parent


def _check_output(output: Path, *, begins: bool) -> None:
    if output.exists() and (begins or not has_parts(output)):
        raise InputError(f"output={output} exists: move it away, or name another file")
    if not output.parent.is_dir():
        raise InputError(f"output={output}: the folder {output.parent} does not exist")
    if begins and has_parts(output):
        raise InputError(
            f"output={output} was cut short: resume=true goes on with it; to begin anew delete "
            f"{part_file(output)}"
        )


def _latest_cut_short(root: Path) -> Path:
    places = [folder / PREDICTIONS for folder in root.glob("*")]
    found = [place for place in places if has_parts(place)]
    if not found:
        raise InputError(
            f"resume=true: no prediction under {root} was cut short; name its folder with "
            "resume=PATH"
        )
    return max(found, key=lambda place: place.parent.stat().st_mtime)
