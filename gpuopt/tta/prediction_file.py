"""Predictions on disk, batch by batch, so that host memory does not grow with the images."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuopt.errors import FaultError, InputError
from gpuopt.storage import Journal

__all__ = ["PredictionBlock", "PredictionFile"]

_HEAD = struct.Struct("<QQQ")  # samples, classes, images per forward


@dataclass(frozen=True, eq=False)
class PredictionBlock:
    """What is said of one batch.

    Attributes:
        ids: Row of each sample in its split, int64 [n].
        targets: Its class, int64 [n]; -1 where unknown.
        probabilities: Or sums of them over models, float32 [n, classes].
        chunk_size: Images per forward pass when it was done.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    chunk_size: int


class PredictionFile:
    """A journal of blocks, one per batch of a loader; a killed process loses no whole block.

    Args:
        path: The file; its folder must exist.
        header: Written into a new file; None goes on with the one that is there.

    Attributes:
        header: What the file was begun with.
        samples: Samples in all blocks.
        chunk_size: Images per forward pass of the last block; None before the first.

    Raises:
        InputError: When the file is damaged, or another process writes it.
        OSError: When it cannot be read or written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any] | None = None) -> None:
        self._journal = Journal(path, header)
        self.header = self._journal.header
        self.samples = 0
        self.chunk_size: int | None = None
        try:
            for block in self.blocks():
                self._count(block)
        except BaseException:
            self.close()
            raise

    @property
    def batches(self) -> int:
        """Number of blocks."""
        return self._journal.count

    def append(self, block: PredictionBlock) -> None:
        """Add what is said of the next batch.

        Raises:
            FaultError: When the disk is full; the blocks before are kept.
        """
        head = _HEAD.pack(*_shape(block.probabilities), block.chunk_size)
        parts = (
            np.ascontiguousarray(block.ids, "<i8"),
            np.ascontiguousarray(block.targets, "<i8"),
            np.ascontiguousarray(block.probabilities, "<f4"),
        )
        try:
            self._journal.append(b"".join([head, *(part.tobytes() for part in parts)]))
        except OSError as error:
            raise FaultError(
                f"{self._journal.path} cannot be written ({error.strerror}): free space"
            ) from error
        self._count(block)

    def blocks(self, first: int = 0) -> Iterator[PredictionBlock]:
        """Read the blocks in order, one at a time.

        Args:
            first: Blocks to leave out at the beginning.

        Raises:
            InputError: When one is not what `append` writes.
        """
        for number, record in enumerate(self._journal.records()):
            if number >= first:
                yield self._block(record)

    def close(self) -> None:
        """Let others open the file."""
        self._journal.close()

    def _count(self, block: PredictionBlock) -> None:
        self.samples += len(block.ids)
        if len(block.ids):
            self.chunk_size = block.chunk_size

    def _block(self, record: bytes) -> PredictionBlock:
        samples, classes, chunk_size = _HEAD.unpack_from(record.ljust(_HEAD.size, b"\xff"))
        if len(record) != _HEAD.size + samples * (16 + 4 * classes) or chunk_size < 1:
            raise InputError(f"{self._journal.path} is damaged: delete it to begin anew")
        ids, targets = np.frombuffer(record, "<i8", 2 * samples, _HEAD.size).reshape(2, samples)
        shares = np.frombuffer(record, "<f4", samples * classes, _HEAD.size + 16 * samples)
        return PredictionBlock(ids, targets, shares.reshape(samples, classes), chunk_size)


def _shape(probabilities: NDArray[np.float32]) -> tuple[int, int]:
    samples, classes = probabilities.shape
    return samples, classes
