"""The loss and learning rates of the steps, logged without making the device wait."""

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from gpuopt.callbacks.device_queue import HostCopy
from gpuopt.steps.step_count import ends_step, is_logged, steps_done

__all__ = ["StepLog"]


@dataclass(frozen=True)
class _Entry:
    """What is to be written about a step as soon as its loss has arrived."""

    step: int
    learning_rates: dict[str, float]
    loss: HostCopy | None


class StepLog(L.Callback):
    """Logs `train/loss_step` and `lr/...` every `log_every_n_steps` optimizer steps.

    `LightningModule.log` with `on_step` or `prog_bar`, and `LearningRateMonitor`, read numbers
    from the device while its queue is full, which empties it. Together with a synchronisation per
    log entry that made a step of ResNet-50 on an H200 7 % longer than a bare loop's. Here an entry
    is written when its loss has arrived, one or two steps late, under the step that it belongs to.

    The loss is what the step minimised: the sum over the window's micro-batches, each divided by
    the accumulation, and the mean over all ranks.

    Attributes:
        loss: The newest loss that was written; None before the first.
    """

    def __init__(self) -> None:
        self.loss: float | None = None
        self._waiting: deque[_Entry] = deque()
        self._learning_rates: dict[str, float] = {}
        self._window_loss: Tensor | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rates, which the schedule changes before the batch has ended."""
        if is_logged(trainer, steps_done(trainer)):
            self._learning_rates = _learning_rates(trainer.optimizers)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add up the window's loss and, after a step that is logged, send it on its way."""
        step = steps_done(trainer)
        if is_logged(trainer, step):
            self._add(outputs)
            if ends_step(trainer):
                loss = None
                if self._window_loss is not None:
                    loss = HostCopy(_mean_of_ranks(trainer, self._window_loss))
                self._waiting.append(_Entry(step, self._learning_rates, loss))
                self._window_loss = None
        self._write(trainer, wait=False)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what is left before the epoch's figures."""
        self._write(trainer, wait=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what is left."""
        self._window_loss = None
        self._write(trainer, wait=True)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write what is left of an interrupted run."""
        # A failed device or a full disk must not hide the first error.
        with contextlib.suppress(OSError, RuntimeError):
            self._write(trainer, wait=True)

    def _add(self, outputs: Any) -> None:
        """Add a micro-batch's loss, which Lightning has divided by the accumulation."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            loss = loss.detach()
            self._window_loss = loss if self._window_loss is None else self._window_loss + loss

    def _write(self, trainer: L.Trainer, *, wait: bool) -> None:
        while self._waiting:
            entry = self._waiting[0]
            if not (wait or entry.loss is None or entry.loss.is_ready()):
                return
            self._waiting.popleft()
            metrics = dict(entry.learning_rates)
            if entry.loss is not None:
                self.loss = metrics["train/loss_step"] = entry.loss.value()
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=entry.step)
                logger.save()


def _mean_of_ranks(trainer: L.Trainer, value: Tensor) -> Tensor:
    """Average over the ranks; with NCCL in the device's queue, without waiting for it."""
    if trainer.world_size == 1:
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / trainer.world_size


def _learning_rates(optimizers: list[Optimizer]) -> dict[str, float]:
    """Name every group's learning rate `lr/<its name or number>`.

    With several optimizers their class and number stand before it.
    """
    rates = {}
    for number, optimizer in enumerate(optimizers):
        owner = f"{type(optimizer).__name__}{number}/" if len(optimizers) > 1 else ""
        for index, group in enumerate(optimizer.param_groups):
            rates[f"lr/{owner}{group.get('name', index)}"] = float(group["lr"])
    return rates
