"""As many images as a measurement needs, from a split that may have fewer."""

from collections.abc import Iterator
from dataclasses import replace

from gpuopt.data.window_sampler import Chunk, EvaluationSampler

__all__ = ["RepeatingSampler"]


class RepeatingSampler(EvaluationSampler):
    """Yields the rows of a split in order, over and over, up to a number of images.

    Args:
        rows: Rows of the split.
        count: Images in all.
        batch_size: Images per batch.
    """

    def __init__(self, rows: int, count: int, batch_size: int) -> None:
        super().__init__(count, batch_size)
        self._rows = rows

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in super().__iter__():
            yield replace(chunk, indices=chunk.indices % self._rows)
