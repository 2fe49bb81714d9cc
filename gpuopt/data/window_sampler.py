"""Samplers whose unit is the global window: what one optimizer step sees, over all ranks.

The order of samples depends on (seed, epoch) only. Micro-batch size, number of ranks, workers and
the point of a resume decide who computes a sample, never which samples share a step.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from gpuopt.data.counter_random import Stream, random_keys
from gpuopt.data.mixing import WindowMix, draw_window_mix

__all__ = ["Chunk", "EvaluationSampler", "GlobalWindowSampler", "micro_batches_per_window"]


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """The samples of one micro-batch and their part in the global window.

    Attributes:
        indices: int64 [n], rows in the split.
        weights: float32 [n], see `Batch.weights`.
        epoch: Epoch that the augmentation is drawn for; None in evaluation.
        partners: int64 [n], rows of the mixing partners; None when the window is not mixed.
        mix_ratio: Share of the sample itself in the mixed label.
        box: Cutmix box (x0, y0, x1, y1); zeros for mixup.
    """

    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    epoch: int | None
    partners: npt.NDArray[np.int64] | None = None
    mix_ratio: float = 1.0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


def micro_batches_per_window(window_size: int, micro_batch_size: int, world_size: int) -> int:
    """Count the micro-batches that each rank takes from a window of `window_size` samples."""
    return math.ceil(math.ceil(window_size / world_size) / micro_batch_size)


class GlobalWindowSampler(Sampler[Chunk]):
    """Yields this rank's micro-batches of every global window of an epoch.

    A window is `global_batch_size` consecutive rows of the epoch's permutation; the last one may
    be shorter and is kept. Rank r takes rows r, r + world_size, ... of it in micro-batches. Every
    rank yields equally many: one that has no row left repeats a row with weight 0.

    Args:
        sample_weights: [samples], relative weight of each sample in the loss, above 0.
        global_batch_size: Samples per optimizer step, over all ranks.
        micro_batch_size: Samples per rank and forward pass.
        seed: Seed of permutation and mixing.
        rank: This process.
        world_size: Number of processes.
        shuffle: Permute the rows anew in each epoch.
        mixup_alpha: See `draw_window_mix`.
        cutmix_alpha: See `draw_window_mix`.
        image_size: Side of the images in pixels, for the cutmix boxes.
    """

    def __init__(
        self,
        sample_weights: npt.NDArray[np.float64],
        global_batch_size: int,
        micro_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        image_size: int = 1,
    ) -> None:
        self._sample_weights = sample_weights
        self._global_batch_size = global_batch_size
        self._micro_batch_size = micro_batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._shuffle = shuffle
        self._mixup_alpha = mixup_alpha
        self._cutmix_alpha = cutmix_alpha
        self._image_size = image_size
        self._epoch = 0
        self._start = 0

    @property
    def accumulate_grad_batches(self) -> int:
        """Micro-batches per full window, the same on every rank."""
        return self._micro_batches(self._global_batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next iteration; Lightning calls it at every epoch."""
        self._epoch = epoch

    def start_at(self, batch_index: int) -> None:
        """Let the next iteration, and only that one, begin at this micro-batch of the epoch."""
        self._start = batch_index

    def __len__(self) -> int:
        """Count the micro-batches of a whole epoch, also before an iteration that starts later."""
        full, rest = divmod(len(self._sample_weights), self._global_batch_size)
        return full * self.accumulate_grad_batches + self._micro_batches(rest)

    def __iter__(self) -> Iterator[Chunk]:
        # A generator: PyTorch makes two iterators when it starts workers and uses the second, so
        # the start may be used up only by the one that is asked for a chunk.
        epoch, start, self._start = self._epoch, self._start, 0
        order = self._order(epoch)
        position = 0
        for window, first in enumerate(range(0, len(order), self._global_batch_size)):
            rows = order[first : first + self._global_batch_size]
            count = self._micro_batches(len(rows))
            if position + count > start:
                yield from self._cut(rows, epoch, window, skip=max(0, start - position))
            position += count

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        rows = np.arange(len(self._sample_weights), dtype=np.int64)
        if not self._shuffle:
            return rows
        return np.argsort(random_keys(self._seed, Stream.ORDER, epoch, rows), kind="stable")

    def _cut(
        self, rows: npt.NDArray[np.int64], epoch: int, window: int, skip: int
    ) -> Iterator[Chunk]:
        shares = self._sample_weights[rows]
        shares = (shares / shares.sum()).astype(np.float32)
        mix = draw_window_mix(
            seed=self._seed,
            epoch=epoch,
            window=window,
            length=len(rows),
            image_size=self._image_size,
            mixup_alpha=self._mixup_alpha,
            cutmix_alpha=self._cutmix_alpha,
        )
        mine = np.arange(self._rank, len(rows), self._world_size)
        for batch in range(skip, self._micro_batches(len(rows))):
            places = mine[batch * self._micro_batch_size : (batch + 1) * self._micro_batch_size]
            if len(places):
                yield _chunk(rows, places, shares[places], epoch, mix)
            else:
                yield _chunk(rows, np.zeros(1, np.int64), np.zeros(1, np.float32), epoch, mix)

    def _micro_batches(self, window_size: int) -> int:
        return micro_batches_per_window(window_size, self._micro_batch_size, self._world_size)


class EvaluationSampler(Sampler[Chunk]):
    """Yields every row once, in order, over all ranks.

    Rank r takes rows r, r + world_size, ...; ranks that have one row less repeat their first with
    weight 0, so that all ranks yield batches of the same shapes.

    Args:
        count: Rows of the split.
        batch_size: Rows per batch and rank.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._count = count
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._start = 0

    def start_at(self, batch_index: int) -> None:
        """Let the next iteration, and only that one, begin at this batch."""
        self._start = batch_index

    def __len__(self) -> int:
        """Count all batches, also before an iteration that starts later."""
        return micro_batches_per_window(self._count, self._batch_size, self._world_size)

    def __iter__(self) -> Iterator[Chunk]:
        start, self._start = self._start, 0  # in a generator, as in `GlobalWindowSampler`
        rows = np.arange(self._rank, self._count, self._world_size)
        weights = np.ones(len(rows), np.float32)
        if len(rows) < math.ceil(self._count / self._world_size):
            rows, weights = np.append(rows, 0), np.append(weights, np.float32(0))
        for first in range(start * self._batch_size, len(rows), self._batch_size):
            part = slice(first, first + self._batch_size)
            yield Chunk(indices=rows[part], weights=weights[part], epoch=None)


def _chunk(
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    epoch: int,
    mix: WindowMix | None,
) -> Chunk:
    if mix is None:
        return Chunk(rows[places], weights, epoch)
    partners = rows[(places + mix.shift) % len(rows)]
    return Chunk(rows[places], weights, epoch, partners, mix.ratio, mix.box)
