"""Write predictions as CSV files.

Ids and class names are written exactly as they are, also `=1+1.jpg`: they are keys that other
programs match, and a contest rejects a changed one. A spreadsheet may take such a cell for a
formula, so import these files as text. Quoting follows RFC 4180; bytes of file names that are not
UTF-8 come back as they were (`surrogateescape`).
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuopt.errors import InputError
from gpuopt.storage import atomic_write

__all__ = [
    "stream_predictions_csv",
    "write_contest_csv",
    "write_predictions_csv",
    "write_rows_csv",
]


def write_predictions_csv(
    path: Path,
    ids: Sequence[str],
    probabilities: ArrayLike,
    class_names: Sequence[str],
    targets: Sequence[int] | None = None,
) -> None:
    """Write `id,target,prediction,confidence` and a column `p_<class>` per class, in one piece.

    Args:
        path: The file; its folder must exist.
        ids: One per sample.
        probabilities: float [n, classes], rows summing to 1.
        class_names: Names by index.
        targets: True classes, -1 where unknown; without them, and for -1, the cell is empty.

    Raises:
        InputError: When lengths differ, or an index in `targets` has no name.
        OSError: When the file cannot be written; an older one is kept.
    """
    shares = np.asarray(probabilities)
    if shares.shape != (len(ids), len(class_names)):
        raise InputError(
            f"probabilities of shape {list(shares.shape)} do not go with {len(ids)} ids and "
            f"{len(class_names)} classes"
        )
    known = [-1] * len(ids) if targets is None else [int(target) for target in targets]
    if len(known) != len(ids) or any(not -1 <= target < len(class_names) for target in known):
        raise InputError(f"targets must be {len(ids)} class indices below {len(class_names)}")
    stream_predictions_csv(path, zip(ids, known, shares, strict=True), class_names)


def stream_predictions_csv(
    path: Path,
    rows: Iterable[tuple[str, int, NDArray[np.float32]]],
    class_names: Sequence[str],
) -> None:
    """Write the same file from one sample at a time, none of which is kept.

    Args:
        path: The file; its folder must exist.
        rows: Id, true class (-1 where unknown) and probabilities [classes] of each sample.
        class_names: Names by index.

    Raises:
        OSError: When the file cannot be written; an older one is kept.
    """
    names = [*class_names, ""]  # index -1 is the empty name of the unknown class

    def lines() -> Iterator[list[str]]:
        for key, target, row in rows:
            shares = (f"{share:.6g}" for share in (row.max(), *row))
            yield [key, names[target], names[row.argmax()], *shares]

    header = ["id", "target", "prediction", "confidence", *(f"p_{name}" for name in class_names)]
    write_rows_csv(path, header, lines())


def write_contest_csv(
    path: Path,
    ids: Sequence[str],
    targets: Sequence[str | int],
    columns: tuple[str, str] = ("id", "target"),
) -> None:
    """Write the two columns of a contest's submission, in one piece.

    Args:
        path: The file; its folder must exist.
        ids: One per sample, in the order of the contest's list.
        targets: Predicted labels as that list spells them.
        columns: Names of the two columns in that list.

    Raises:
        InputError: When lengths differ.
        OSError: When the file cannot be written; an older one is kept.
    """
    if len(ids) != len(targets):
        raise InputError(f"{len(ids)} ids do not go with {len(targets)} predicted labels")
    write_rows_csv(path, list(columns), zip(ids, targets, strict=True))


class _UnixLines:
    """Ends rows with a line feed alone, though csv.writer is told to end them with both.

    It quotes only the characters of its own line end, and readers take a bare carriage return
    inside an id for the end of a row.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: str) -> int:
        """Write one whole row, which is how csv.writer hands them over."""
        return self._stream.write(row.removesuffix("\r\n") + "\n")


def write_rows_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    """Write a table in one piece.

    Args:
        path: The file; its folder must exist.
        header: Names of the columns.
        rows: As many values each.

    Raises:
        OSError: When the file cannot be written; an older one is kept.
    """
    with atomic_write(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(_UnixLines(text), lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows(rows)
        text.detach()  # flushes, and leaves closing to atomic_write, which syncs first
