"""Predict a loader into a file, with as many models at a time as there is memory for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpuopt.tta.prediction_file import PredictionBlock, PredictionFile
from gpuopt.tta.predictions import EvaluationBatch, check_finite, real_samples
from gpuopt.tta.predictor import TtaPredictor

__all__ = ["LastPass", "stream_pass"]


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
    """Predict batch by batch into a file; one batch is in memory at a time.

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
    for batch in loader:
        block = _predict(batch, predictor, None if sums is None else next(sums), last)
        file.append(block)
        if on_batch is not None:
            on_batch(len(block.ids))


def _predict(
    batch: EvaluationBatch,
    predictor: TtaPredictor,
    before: PredictionBlock | None,
    last: LastPass | None,
) -> PredictionBlock:
    found = real_samples(batch)
    if found is None:  # kept as well: blocks are counted as batches
        nothing = np.empty(0, np.int64)
        return PredictionBlock(nothing, nothing, np.empty((0, 0), np.float32), 1)
    images, ids, targets = found
    total = None if before is None else torch.from_numpy(before.probabilities.copy())
    for probabilities in _on_host(predictor, images):
        # On the host, where a sum is the same however the models are dealt into passes.
        total = probabilities if total is None else total + probabilities
    assert total is not None  # a predictor has at least one model
    if last is not None:
        total = total / last.models
        total = total if last.finish is None else last.finish(total)
    found_probabilities = total.numpy()
    check_finite(found_probabilities, ids)
    return PredictionBlock(ids, targets, found_probabilities, predictor.chunk_size or len(ids))


def _on_host(predictor: TtaPredictor, images: Tensor) -> Iterator[Tensor]:
    for probabilities in predictor.of_each_model(images):
        yield probabilities.cpu()
