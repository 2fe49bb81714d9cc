"""Predict a loader into a file, with as many models at a time as there is memory for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpuopt.tta.prediction_file import PredictionBlock, PredictionFile
from gpuopt.tta.predictions import EvaluationBatch, check_finite, real_samples
from gpuopt.tta.predictor import TtaPredictor

__all__ = ["LastPass", "stream_pass"]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class LastPass:
    """What turns the sum over all models into the result.

    Attributes:
        models: Number of models of all passes.
        finish: Changes the mean probabilities of a batch, float32 [n, classes] on the host, such
            as by a temperature; None leaves them.
    """

    models: int
    finish: Callable[[Tensor], Tensor] | None = None


def stream_pass(
    loader: Iterable[EvaluationBatch],
    predictor: TtaPredictor,
    file: PredictionFile,
    *,
    earlier: PredictionFile | None = None,
    last: LastPass | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Predict batch by batch into a file; one batch is in memory at a time, on a card two.

    The models' probabilities are summed one after another in fp32, also over passes: how many
    models share a pass does not change a bit.

    Args:
        loader: Yields the batches that the file does not hold yet.
        predictor: The models of this pass and the views.
        file: Gets one block per batch.
        earlier: The complete file of the pass before, whose sums are gone on with.
        last: Given in the last pass, which divides the sums.
        on_batch: Called after each batch is in the file, with its number of samples.

    Raises:
        FaultError: When outputs are not finite, one image does not fit into memory, or the disk
            is full.
        InputError: When the file of the pass before is damaged.
    """
    sums = None if earlier is None else earlier.blocks(first=file.batches)
    # A card works on a batch while the host waits for the next one and keeps the one before.
    ahead = 1 if predictor.device.type == "cuda" else 0
    for predicted in _delayed((_Predicted.begin(batch, predictor) for batch in loader), ahead):
        block = predicted.block(None if sums is None else next(sums), last)
        file.append(block)
        if on_batch is not None:
            on_batch(len(block.ids))


@dataclass(frozen=True)
class _Predicted:
    """What the models say of a batch, on its way to the host.

    Attributes:
        ids: Row of each sample, int64 [n].
        targets: Its class, int64 [n].
        of_models: Probabilities of each model, float32 [n, classes] on the host.
        chunk_size: Images per forward pass.
        arrived: Is waited for before `of_models` is read; None when it is there.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    of_models: list[Tensor]
    chunk_size: int
    arrived: torch.cuda.Event | None

    @classmethod
    def begin(cls, batch: EvaluationBatch, predictor: TtaPredictor) -> "_Predicted":
        found = real_samples(batch)
        if found is None:  # kept as well: blocks are counted as batches
            nothing = np.empty(0, np.int64)
            return cls(nothing, nothing, [torch.empty(0, 0)], 1, None)
        images, ids, targets = found
        of_models = predictor.of_each_model(images)
        chunk_size = predictor.chunk_size or len(ids)
        if predictor.device.type != "cuda":
            return cls(ids, targets, [said.cpu() for said in of_models], chunk_size, None)
        # Only into pinned memory a copy does not stop the host until the card has come to it.
        on_host = [torch.empty(said.shape, pin_memory=True) for said in of_models]
        for place, said in zip(on_host, of_models, strict=True):
            place.copy_(said, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(predictor.device))
        return cls(ids, targets, on_host, chunk_size, arrived)

    def block(self, before: PredictionBlock | None, last: LastPass | None) -> PredictionBlock:
        if self.arrived is not None:
            self.arrived.synchronize()
        total = None if before is None else torch.from_numpy(before.probabilities.copy())
        for said in self.of_models:
            # On the host, where a sum is the same however the models are dealt into passes.
            total = said if total is None else total + said
        assert total is not None  # a predictor has at least one model
        if last is not None and len(self.ids):
            total = total / last.models
        check_finite(total.numpy(), self.ids)  # before they are finished, which takes numbers only
        if last is not None and last.finish is not None and len(self.ids):
            total = last.finish(total)
        return PredictionBlock(self.ids, self.targets, total.numpy(), self.chunk_size)


def _delayed(items: Iterator[_Item], count: int) -> Iterator[_Item]:
    """Yield all items in order, each once so many more have been made."""
    waiting: deque[_Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
