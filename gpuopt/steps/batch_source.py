"""Where a Trainer's loop takes its batches from, which may change from step to step."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L

from gpuopt.steps.batch_parts import sample_count

__all__ = ["BatchSource"]


class BatchSource:
    """Stands before the loader of a fit that goes on without end.

    Args:
        trainer: In an epoch of training.

    Attributes:
        held: Given to the Trainer for every step; None lets the loader give its next batch.
        begun_anew: How often the loader was at its end and began from the start.
        samples: How many the loader has given.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.held: Any = None
        self.begun_anew = 0
        self.samples = 0
        loop: Any = trainer.fit_loop
        self._loop = loop
        self._fetcher: Any = loop._data_fetcher
        self._batches: Iterator[Any] = self._fetcher.iterator
        fetcher = self._fetcher
        fetcher.iterator = self
        # Nothing ends the epoch now: neither the loader's length nor a validation.
        fetcher.length, fetcher.done, fetcher.prefetch_batches = None, False, 0
        fetcher.batches = []
        self._before = loop.max_batches, trainer.val_check_batch, loop.epoch_loop.max_steps
        self._trainer: Any = trainer
        loop.max_batches = self._trainer.val_check_batch = float("inf")
        loop.epoch_loop.max_steps = -1

    def load(self) -> Any:
        """Return the loader's next batch, on the host."""
        return self._next_of_loader()[0]

    def give_back(self) -> None:
        """Let the Trainer count again as it did; its epoch cannot go on."""
        loop = self._loop
        loop.max_batches, self._trainer.val_check_batch, loop.epoch_loop.max_steps = self._before
        self._fetcher.iterator = self._batches
        self.held = None

    def __iter__(self) -> "BatchSource":
        return self

    def __next__(self) -> Any:
        if self.held is not None:
            return self.held, 0, 0
        return self._next_of_loader()

    def _next_of_loader(self) -> Any:
        try:
            item = next(self._batches)
        except StopIteration:
            self.begun_anew += 1
            self._batches = iter(self._fetcher.combined_loader)
            item = next(self._batches)
        self.samples += sample_count(item[0])
        return item
