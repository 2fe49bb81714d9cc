"""What a model says about every view of every image, kept apart, to choose views by."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpuopt.errors import InputError
from gpuopt.tta.chunks import ViewChunks
from gpuopt.tta.predictions import EvaluationBatch, check_finite, real_samples
from gpuopt.tta.views import View

__all__ = ["ViewScores", "score_views"]


@dataclass(frozen=True, eq=False)
class ViewScores:
    """Log-probabilities of each view alone, in the loader's order.

    Attributes:
        ids: Row of each sample in its split, int64 [n].
        targets: Its class, int64 [n]; -1 where unknown.
        log_probabilities: [views, n, classes], in the precision that was asked for.
        chunk_size: Images per forward pass in the end.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    log_probabilities: NDArray[Any]
    chunk_size: int | None = None


def score_views(
    loader: Iterable[EvaluationBatch],
    forward: Callable[[Tensor], Tensor],
    views: Sequence[View],
    *,
    device: torch.device | str = "cpu",
    chunk_size: int | Literal["auto"] = "auto",
    autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    dtype: type[np.floating[Any]] = np.float16,
    on_batch: Callable[[int], None] | None = None,
) -> ViewScores:
    """Score every view of all samples of a loader in one pass.

    Args:
        loader: Yields batches; one is held at a time. Rows of weight 0 (padding) are dropped.
        forward: As for `TtaPredictor`.
        views: At least one.
        device: Where views are made and the model runs.
        chunk_size: As for `TtaPredictor`.
        autocast: Makes the context in which the model runs.
        dtype: `np.float16`, good to 0.004 for probabilities above 0.0004, or `np.float32`. On the
            host this takes views * n * classes values; memory of the device does not grow.
        on_batch: Called after each batch with its number of samples.

    Raises:
        InputError: When the loader yields no sample, and for no view.
        FaultError: When outputs are not finite, or one image does not fit into memory.
    """
    chunks = ViewChunks([forward], views, device=device, chunk_size=chunk_size, autocast=autocast)
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    scores: list[NDArray[Any]] = []
    for batch in loader:
        found = real_samples(batch)
        if found is None:
            continue
        images, ids, targets = found
        of_batch = _score_batch(chunks, images)
        check_finite(of_batch.sum(axis=0), ids)
        scores.append(of_batch.astype(dtype))
        rows.append((ids, targets))
        if on_batch is not None:
            on_batch(len(ids))
    if not rows:
        raise InputError("there is nothing to predict: the data holds no readable image")
    return ViewScores(
        ids=np.concatenate([ids for ids, _ in rows]),
        targets=np.concatenate([targets for _, targets in rows]),
        log_probabilities=np.concatenate(scores, axis=1),
        chunk_size=chunks.chunk_size,
    )


def _score_batch(chunks: ViewChunks, images: Tensor) -> NDArray[np.float32]:
    """Score a batch, float32 [views, n, classes] on the host."""
    parts: list[list[Tensor]] = [[] for _ in chunks.views]

    def receive(view: int, first_sample: int, log_probabilities: Sequence[Tensor]) -> None:
        del first_sample  # they come in order
        parts[view].append(log_probabilities[0])

    chunks.run(images, receive)
    of_batch: NDArray[np.float32] = (
        torch.stack([torch.cat(of_view) for of_view in parts]).cpu().numpy()
    )
    return of_batch
