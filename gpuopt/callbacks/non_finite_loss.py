"""Stop when the loss is no number, before it has spoiled the weights for long."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from gpuopt.callbacks.device_queue import HostCopy
from gpuopt.errors import FaultError

__all__ = ["NonFiniteLoss"]


class NonFiniteLoss(L.Callback):
    """Raises `FaultError` in the step after a NaN or infinite loss, at the latest.

    On a CPU the loss is looked at before the backward pass, so the weights are never touched. On
    a GPU reading it would stall the queue; the value travels while the next batch runs.

    Args:
        report: Called once with the step and the faulty batch, to save to `bad_batch.json` which
            samples it held.
    """

    changes_no_step = True  # see `gpuopt.steps.hook_changes`

    def __init__(self, report: Callable[[int, Any], None] | None = None) -> None:
        self._report = report
        self._batch: Any = None
        self._pending: tuple[HostCopy, int, Any] | None = None

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Look at a loss that lies on the CPU at once."""
        if not loss.is_cuda and not bool(torch.isfinite(loss)):
            self._fail(trainer.global_step, self._batch)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch for the report."""
        self._batch = batch

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the loss of the batch before, and send this one on its way."""
        self._check_pending()
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and loss.is_cuda:
            self._pending = (HostCopy(loss), trainer.global_step, batch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the last loss of the epoch."""
        self._check_pending()

    def _check_pending(self) -> None:
        if self._pending is None:
            return
        loss, step, batch = self._pending
        self._pending = None
        if not math.isfinite(loss.value()):
            self._fail(step, batch)

    def _fail(self, step: int, batch: Any) -> None:
        if self._report is not None:
            self._report(step, batch)
        batch_name = "its batch" if self._report is None else "bad_batch.json"
        raise FaultError(
            f"the loss is not finite at step {step}: look at the samples of {batch_name}, lower "
            "model.learning_rate, or train with precision=fp32"
        )
