"""Where the files of a prediction go, settled before any work, and written in the end.

Imports no torch.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuopt.errors import FaultError, InputError

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.session.contest import Contest
    from gpuopt.session.streamed import StreamedPredictions

__all__ = ["place_of_submission", "require_writable", "write_predictions"]


def require_writable(output: Path) -> None:
    """Try a file of nearly the same name: only that finds all reasons, before the work is done.

    Raises:
        InputError: When the file cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(
            prefix=f".{output.name}.", suffix=".tmp", dir=output.parent
        ):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"output={output} cannot be written ({reason}): name another file"
        ) from error


def place_of_submission(node: Mapping[str, Any], output: Path, *, may_exist: bool) -> Path | None:
    """Say where a contest's file would go; nothing of the user's is overwritten.

    Args:
        node: The settings of `data=`.
        output: The file of predictions.
        may_exist: Whether the file may be there: a prediction that was cut short left it.

    Returns:
        None where the data are of no contest.

    Raises:
        InputError: When there is something of its name, or the output has it.
    """
    is_csv = str(node["_target_"]).endswith(".ImageCsv")
    if not is_csv or not (node.get("test_csv") or node.get("test_dir")):
        return None
    submission = output.with_name("submission.csv")
    if submission.exists() and not may_exist:
        raise InputError(f"{submission} exists: move it away, or name an output elsewhere")
    if submission == output:
        raise InputError(
            f"output={output} is the name of the contest's file, which is written beside the "
            "predictions: name it predictions.csv"
        )
    return submission


def write_predictions(
    predictions: "StreamedPredictions",
    output: Path,
    class_names: Sequence[str],
    *,
    submission: Path | None,
    contest: "Contest | None",
    is_written: bool,
) -> list[Path]:
    """Write the predictions, and a contest's file where its classes are unknown.

    Args:
        predictions: Of all images; their parts are removed in the end.
        output: The file of predictions.
        class_names: In the order of the logits.
        submission: The file of a contest; None for none.
        contest: What its file looks like; None for none.
        is_written: Whether `output` is complete, of a prediction that was cut short after it.

    Returns:
        What is there now.

    Raises:
        FaultError: When the disk is full.
        PreemptedError: When asked to stop meanwhile.
    """
    # Only now: importing these takes seconds.
    from gpuopt.report import stream_predictions_csv
    from gpuopt.session.contest import write_submission

    is_scored = bool((predictions.targets >= 0).any())
    written = [output]
    try:
        with predictions.written():
            if not is_written:
                stream_predictions_csv(output, predictions.rows(), class_names)
            if submission is not None and contest is not None and not is_scored:
                if not submission.exists():
                    write_submission(submission, predictions.ids, predictions.classes, contest)
                written.append(submission)
    except OSError as error:
        raise FaultError(
            f"cannot write into {output.parent} ({error.strerror}): free space, and the same "
            f"command with resume={output.parent} goes on"
        ) from error
    return written
