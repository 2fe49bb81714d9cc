"""Predict everything that a loader yields, batch by batch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gpuopt.errors import FaultError, InputError
from gpuopt.tta.predictor import TtaPredictor

__all__ = ["EvaluationBatch", "Predictions", "check_finite", "predict_loader", "real_samples"]


class EvaluationBatch(Protocol):
    """The part of a `gpuopt.data.Batch` that prediction reads."""

    @property
    def images(self) -> Tensor:
        """Images, uint8 [n, 3, s, s]."""

    @property
    def targets(self) -> Tensor:
        """Classes, int64 [n]; -1 where unknown."""

    @property
    def ids(self) -> Tensor:
        """Rows of the samples in their split, int64 [n]."""

    @property
    def weights(self) -> Tensor:
        """Zero for padding, float32 [n]."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about a split, one row per sample in the loader's order.

    Attributes:
        ids: Row of each sample in its split, int64 [n].
        targets: Its class, int64 [n]; -1 where unknown.
        probabilities: Merged over the views, float32 [n, classes].
        single_view: Of the unchanged image alone, float32 [n, classes], when asked for.
        chunk_size: Images per forward pass in the end.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    single_view: NDArray[np.float32] | None = None
    chunk_size: int | None = None

    @property
    def classes(self) -> NDArray[np.int64]:
        """The most probable class of each sample, int64 [n]."""
        classes: NDArray[np.int64] = np.argmax(self.probabilities, axis=1)
        return classes

    @property
    def confidences(self) -> NDArray[np.float32]:
        """The probability of that class, float32 [n]."""
        confidences: NDArray[np.float32] = np.max(self.probabilities, axis=1)
        return confidences


def predict_loader(
    loader: Iterable[EvaluationBatch],
    predictor: TtaPredictor,
    *,
    with_single_view: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Predict all samples of a loader; rows of weight 0 (padding) are dropped first.

    Args:
        loader: Yields batches; one batch is held at a time.
        predictor: Model and views.
        with_single_view: Also return what the unchanged images alone give.
        on_batch: Called after each batch with its number of samples; moves progress bars, and
            may raise to stop.

    Raises:
        InputError: When the loader yields no sample.
        FaultError: When outputs are not finite, or one image does not fit into memory.
    """
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    merged: list[NDArray[np.float32]] = []
    single: list[NDArray[np.float32]] = []
    for batch in loader:
        found = real_samples(batch)
        if found is None:
            continue
        images, ids, targets = found
        if with_single_view:
            both = predictor.with_single_view(images)
            merged.append(both[0].cpu().numpy())
            single.append(both[1].cpu().numpy())
        else:
            merged.append(predictor(images).cpu().numpy())
        check_finite(merged[-1], ids)
        rows.append((ids, targets))
        if on_batch is not None:
            on_batch(len(ids))
    if not rows:
        raise InputError("there is nothing to predict: the data holds no readable image")
    return Predictions(
        ids=np.concatenate([ids for ids, _ in rows]),
        targets=np.concatenate([targets for _, targets in rows]),
        probabilities=np.concatenate(merged),
        single_view=np.concatenate(single) if with_single_view else None,
        chunk_size=predictor.chunk_size,
    )


def real_samples(
    batch: EvaluationBatch,
) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]] | None:
    """Return images, ids and targets of a batch without its padding, or None when it is all."""
    real = batch.weights > 0
    # Indexing would copy a whole batch, out of pinned memory; most batches have no padding.
    images = batch.images if bool(real.all()) else batch.images[real]
    if not len(images):
        return None
    return images, batch.ids[real].cpu().numpy(), batch.targets[real].cpu().numpy()


def check_finite(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    """Refuse what a model that overflows has said.

    Args:
        scores: [n, classes].
        ids: Row of each sample in its split.

    Raises:
        FaultError: When a score is not finite.
    """
    bad = ids[~np.isfinite(scores).all(axis=1)]
    if len(bad):
        raise FaultError(
            f"the model's outputs are not finite for {len(bad)} of {len(ids)} images of a batch "
            f"(first row: {bad[0]}); try precision=fp32, or another checkpoint"
        )
