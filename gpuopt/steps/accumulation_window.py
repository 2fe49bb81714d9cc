"""The batches that make up one optimizer step, for those who have to know where it begins."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from gpuopt.steps.trainer_parts import callbacks_of

__all__ = [
    "Window",
    "WindowOwner",
    "first_batch_of_window",
    "go_back_to_start",
    "has_loss_weight",
    "is_first_of_window",
    "loss_divisor",
    "loss_weight",
]


class Window:
    """The running accumulation window of one rank.

    Attributes:
        first_batch: Its first batch, counted within the epoch.
        batch: The running batch; None before the first batch of a fit.
        samples: So far, over all ranks.
        weight: Of the losses so far, of this rank.
        divisor: The running batch's loss goes into the gradient divided by it.
        is_closed: Whether the running batch is the last one.
    """

    def __init__(self) -> None:
        self.first_batch = 0
        self.batch: int | None = None
        self.samples = 0
        self.weight: float | Tensor = 0.0
        self.divisor: float | Tensor = 1.0
        self.is_closed = True

    def begin(self, batch: int) -> None:
        """Start with a batch."""
        self.first_batch, self.samples, self.weight = batch, 0, 0.0

    def go_back(self) -> None:
        """Forget the batches so far, as if the window before had just ended."""
        self.batch, self.is_closed = None, True


class WindowOwner(L.Callback):
    """A callback that decides where windows end, instead of the Trainer's number of batches.

    Attributes:
        window: The running one.
        loss_weight: The number by which a batch's loss was divided; None: its samples.
    """

    window: Window
    loss_weight: Callable[[Any], float | Tensor] | None


def is_first_of_window(trainer: L.Trainer) -> bool:
    """Tell whether the running batch is the first one of its optimizer step."""
    return trainer.fit_loop.epoch_loop.batch_idx == first_batch_of_window(trainer)


def first_batch_of_window(trainer: L.Trainer) -> int:
    """Return the first batch of the running optimizer step, counted within the epoch."""
    owner = _owner(trainer)
    if owner is not None:
        return owner.window.first_batch
    index = trainer.fit_loop.epoch_loop.batch_idx
    return index - index % trainer.accumulate_grad_batches


def loss_divisor(trainer: L.Trainer) -> Any:
    """Return what the running batch's loss is divided by before its backward pass."""
    owner = _owner(trainer)
    return trainer.accumulate_grad_batches if owner is None else owner.window.divisor


def loss_weight(trainer: L.Trainer, batch: Any, count: int) -> Any:
    """Return the number by which the loss of a batch of `count` samples was divided."""
    owner = _owner(trainer)
    weigh = None if owner is None else owner.loss_weight
    return count if weigh is None else weigh(batch)


def has_loss_weight(trainer: L.Trainer) -> bool:
    """Tell whether somebody knows by what losses are divided."""
    owner = _owner(trainer)
    return owner is not None and owner.loss_weight is not None


def go_back_to_start(trainer: L.Trainer) -> None:
    """Let whoever owns the windows forget the running one."""
    owner = _owner(trainer)
    if owner is not None:
        owner.window.go_back()


def _owner(trainer: L.Trainer) -> WindowOwner | None:
    return next((c for c in callbacks_of(trainer) if isinstance(c, WindowOwner)), None)
