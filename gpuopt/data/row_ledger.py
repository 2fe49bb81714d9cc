"""Which rows of a long piece of work are done, kept on disk so that it can be interrupted."""

import base64
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuopt.storage import write_json

__all__ = ["RowLedger"]


class RowLedger:
    """Done and rejected rows, stored as one JSON file that is replaced in one piece.

    Args:
        file: Where it is kept; a missing or damaged file means that nothing is done.
        count: Number of rows.
    """

    def __init__(self, file: Path, count: int) -> None:
        self._file = file
        self._done = np.zeros(count, dtype=bool)
        self.rejected: dict[int, str] = {}
        self._load()

    @property
    def complete(self) -> bool:
        """Whether every row is done."""
        return bool(self._done.all())

    def pending(self) -> npt.NDArray[np.int64]:
        """Return the rows that are still to do."""
        return np.flatnonzero(~self._done)

    def mark(self, rows: npt.NDArray[np.int64], rejected: dict[int, str]) -> None:
        """Count rows as done, some of them with the reason why they were left out."""
        self._done[rows] = True
        self.rejected.update(rejected)

    def clear(self) -> None:
        """Forget everything."""
        self._done[:] = False
        self.rejected.clear()

    def save(self) -> None:
        """Write the ledger.

        Raises:
            OSError: When the disk is full or read-only.
        """
        packed = base64.b64encode(np.packbits(self._done).tobytes()).decode()
        rejected = {str(row): reason for row, reason in sorted(self.rejected.items())}
        write_json(
            self._file, {"count": len(self._done), "done_bits": packed, "rejected": rejected}
        )

    def _load(self) -> None:
        try:
            content = json.loads(self._file.read_text("utf-8"))
            if content["count"] != len(self._done):
                return
            packed = np.frombuffer(base64.b64decode(content["done_bits"]), np.uint8)
            if len(packed) != -(-len(self._done) // 8):
                return
            done = np.unpackbits(packed, count=len(self._done)).astype(bool)
            rejected = {int(row): str(reason) for row, reason in content["rejected"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        self._done[:] = done
        self.rejected.update(rejected)
