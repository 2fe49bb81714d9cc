"""A fit that trains on one batch over and over, for callbacks that time its steps."""

import gc
import itertools
import warnings
from collections.abc import Iterator, Sequence

import lightning.pytorch as L
import torch

from benchmarks.memory_cells import Cell, images_of, quiet, release
from benchmarks.step_setting import CLIP_NORM
from benchmarks.trainer_segments import MeasuredError
from gpuopt.data import Batch
from gpuopt.hardware import float32_matmul_precision, lightning_precision
from gpuopt.model import Classifier

__all__ = ["ENDLESS", "fit_one_batch"]

ENDLESS = 10**6
"""Steps of the epoch, which a callback ends by `MeasuredError`."""


class _Repeated:
    """A loader that gives one batch, on the device already, over and over."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        return itertools.repeat(self._batch, ENDLESS)


def fit_one_batch(
    cell: Cell, samples: int, callbacks: Sequence[L.Callback], model: Classifier
) -> None:
    """Train until a callback raises `MeasuredError`.

    Args:
        cell: The network.
        samples: Micro-batch size; each step takes one.
        callbacks: All that the Trainer has.
        model: Of the cell, with a schedule of `ENDLESS` steps.

    Raises:
        RuntimeError: When no callback did.
    """
    torch.set_float32_matmul_precision(float32_matmul_precision(cell.precision))
    release()
    loader = _Repeated(_batch_of(cell, samples))
    gc.collect()
    gc.freeze()  # what is there already need not be looked through in the middle of a block
    try:
        with quiet():
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
            _trainer_of(cell, callbacks).fit(model, loader)
    except MeasuredError:
        return
    finally:
        gc.unfreeze()
        release()
    raise RuntimeError("the epoch was too short to measure everything")


def _trainer_of(cell: Cell, callbacks: Sequence[L.Callback]) -> L.Trainer:
    return L.Trainer(
        accelerator="gpu" if cell.device == "cuda" else "cpu",
        devices=1,
        precision=lightning_precision(cell.precision),
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=CLIP_NORM,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[*callbacks],
    )


def _batch_of(cell: Cell, samples: int) -> Batch:
    data = images_of(cell, samples, 1)
    data.prepare_data()
    data.setup()
    return Batch(*(tensor.to(cell.device) for tensor in data.sample_batch(samples)))
