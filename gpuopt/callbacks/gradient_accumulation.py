"""Steps of a global batch of samples, with the gradient of that batch however it is dealt out."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gpuopt.batch_schedule import BatchSchedule
from gpuopt.callbacks.agreement import sum_over_ranks
from gpuopt.callbacks.batch_by_epoch import BatchByEpoch
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.steps.accumulation_window import Window, WindowOwner
from gpuopt.steps.batch_parts import sample_count
from gpuopt.steps.loop_window import LoopWindow
from gpuopt.steps.split_step import Binding
from gpuopt.steps.trainer_parts import callbacks_of, data_module_of
from gpuopt.steps.weighted_loss import is_weighted

__all__ = ["GradientAccumulation"]

_log = logging.getLogger(__name__)


class GradientAccumulation(WindowOwner):
    """Takes an optimizer step whenever `global_batch_size` samples have come, over all ranks.

    The gradient is that of one batch of all these samples: each batch's loss counts with its
    weight / the sum of the weights of its window, also where windows hold batches of different
    sizes and where an epoch ends before a window is full. (Lightning counts batches, all alike,
    and divides by their number even when fewer came.) What depends on the batch itself, such as
    BatchNorm, is that of the batches. `outputs["loss"]` is the loss times its share of a full
    window, so that the shares of a full window add up to its loss.

    Several ranks, which may hold different numbers of samples, add these up at every batch.

    A window ends with the batch that fills it. When batches do not add up to the global batch it
    holds more samples, which is said once; its gradient is exact for those it holds.

    For a loss that is the mean over a batch's samples, in any Trainer on one device or DDP, with
    automatic optimization and without `accumulate_grad_batches`. gpuopt's own data modules deal
    out whole windows, for which its `Classifier` weights the loss: they need no such callback.

    Args:
        global_batch_size: Samples per optimizer step, over all ranks.
        loss_weight: The number by which a batch's loss was divided, from the batch as
            `training_step` gets it: a number or a tensor of one element. None: its samples. For
            class weights `lambda batch: class_weights[batch[1]].sum()`.
        count_samples: Samples of a batch; None: the length of its first tensor.
        global_batch_schedule: Further global batch sizes by the epoch from which they hold.
        learning_rate_rule: What a learning rate becomes with another global batch: `none`,
            `linear` or `sqrt`.
        learning_rate_reference_batch: The global batch that the module's learning rates were
            chosen for; None: that of epoch 0.

    Attributes:
        window: The running one.
        loss_weight: As given.
    """

    def __init__(
        self,
        global_batch_size: int,
        *,
        loss_weight: Callable[[Any], float | Tensor] | None = None,
        count_samples: Callable[[Any], int] | None = None,
        global_batch_schedule: Mapping[int, int] | None = None,
        learning_rate_rule: str = "none",
        learning_rate_reference_batch: int | None = None,
    ) -> None:
        self.window = Window()
        self._batches = BatchByEpoch(
            BatchSchedule.of(global_batch_size, global_batch_schedule),
            learning_rate_rule,
            learning_rate_reference_batch,
        )
        self.loss_weight = loss_weight
        self._count = count_samples or sample_count
        # A batch's weight per sample, about: keeps the shares, which fp16 computes with, near 1.
        self._unit: float | None = None if loss_weight else 1.0
        self._batch_weight: float | Tensor = 0.0
        self._loop: LoopWindow | None = None
        self._binding: Binding | None = None
        self._sizes: set[int] = set()
        self._has_warned = False

    def summary(self) -> dict[str, Any]:
        """Return how many samples the steps held, and the changes of the global batch."""
        sizes = sorted(self._sizes)
        return {"samples_per_step": sizes, **self._batches.summary()}

    def state_dict(self) -> dict[str, Any]:
        """Remember what a resumed run goes on with; gradients are in no checkpoint."""
        window = self.window
        is_open = not window.is_closed
        return {"is_open": is_open, "unit": self._unit, "batches": self._batches.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another has stopped, with a new window."""
        self.window.go_back()
        self.window.is_closed = not state_dict["is_open"]
        self._unit = state_dict["unit"]
        self._batches.load_state_dict(state_dict["batches"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Bind to the Trainer's loop.

        Raises:
            InputError: When the gradient could not be exact.
        """
        self._undo()
        if stage != "fit":
            return
        reason = _reason(trainer, pl_module)
        if reason is not None:
            raise InputError(f"GradientAccumulation cannot be exact here: {reason}")
        self.window.go_back()
        self._batches.begin()
        self._loop = LoopWindow(trainer, self.window, self._add_weight)
        self._loop.bind()
        self._binding = Binding(pl_module)
        self._binding.put("configure_optimizers", lambda own: lambda: self._configure(trainer, own))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the optimizer and at the losses that the module holds."""
        if self.loss_weight is None and any(is_weighted(part) for part in pl_module.modules()):
            raise InputError(
                "GradientAccumulation cannot be exact here: the module has a loss with class "
                "weights, which divides by their sum; give loss_weight, for example "
                "lambda batch: class_weights[batch[1]].sum()"
            )
        if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
            raise InputError(
                "GradientAccumulation cannot be exact here: LBFGS runs a batch several times in "
                "one step; use another optimizer"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the global batch and learning rate of the epoch that a fit goes on with."""
        self._batches.enter(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the epoch's global batch and learning rate; begin with an empty window."""
        self._batches.enter(trainer)
        self.window.go_back()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Give the batch its place and its share."""
        window, loop = self.window, trainer.fit_loop.epoch_loop
        index = loop.batch_idx
        if window.is_closed or window.batch is None:
            window.begin(index)
        window.batch = index
        count = self._count(batch)
        weight = count if self.loss_weight is None else self.loss_weight(batch)
        if isinstance(weight, Tensor):
            weight = weight.detach().reshape(()).to(trainer.strategy.root_device)
        self._batch_weight = weight
        if self._unit is None:
            self._unit = _unit(*sum_over_ranks(trainer, float(weight), count))
        window.samples += int(sum_over_ranks(trainer, count)[0])
        window.divisor = _quotient(self._reference(trainer), weight * trainer.world_size)
        full = self._batches.at(trainer.current_epoch)
        is_last = loop._num_ready_batches_reached()
        window.is_closed = window.samples >= full or is_last
        if window.is_closed:
            self._note(trainer, full, is_last=is_last)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Divide by the weight that the window really had, before gradients are clipped."""
        total = _total(trainer, self.window.weight)
        factor = _quotient(self._reference(trainer), total)
        if isinstance(factor, float) and factor in (1.0, math.inf):
            return
        if isinstance(factor, Tensor):
            factor = torch.where(total > 0, factor, torch.ones_like(factor))
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the loop back when a run fails."""
        self._undo()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the loop back."""
        self._undo()

    def _reference(self, trainer: L.Trainer) -> float:
        """Return the weight of a full window as far as it is known before, the same on all ranks.

        Shares are taken of it because the true one is known only when the last batch has come.
        """
        return self._batches.at(trainer.current_epoch) * (self._unit or 1.0)

    def _add_weight(self) -> None:
        self.window.weight = self.window.weight + self._batch_weight

    def _note(self, trainer: L.Trainer, full: int, *, is_last: bool) -> None:
        window = self.window
        self._sizes.add(window.samples)
        if self._has_warned:
            return
        if window.samples > full:
            self._has_warned = True
            _log.warning(
                "a step takes %d samples instead of %d, which batches of this size do not add up "
                "to: take a batch size that divides it",
                window.samples,
                full,
            )
        elif is_last and window.first_batch == 0 and window.samples < full:
            self._has_warned = True
            _log.warning(
                "an epoch has %d samples, so a step takes these and never %d", window.samples, full
            )

    def _configure(self, trainer: Any, configure: Callable[[], Any]) -> Any:
        """Let `trainer.estimated_stepping_batches`, which schedules are made of, be right."""
        trainer.accumulate_grad_batches = self._batches_per_step(trainer)
        try:
            return configure()
        finally:
            trainer.accumulate_grad_batches = 1

    def _batches_per_step(self, trainer: L.Trainer) -> float:
        trainer.fit_loop.setup_data()
        loader: Any = getattr(trainer.fit_loop._combined_loader, "flattened", [None])[0]
        batches, epochs = trainer.num_training_batches, max(1, trainer.max_epochs or 1)
        size = getattr(loader, "batch_size", None) or getattr(
            getattr(loader, "batch_sampler", None), "batch_size", None
        )
        if not size or batches == math.inf or not batches:
            return 1
        steps = self._batches.steps(int(batches), int(size) * trainer.world_size, epochs)
        return _batches_per_step(int(batches), math.ceil(steps / epochs))

    def _undo(self) -> None:
        for part in (self._loop, self._binding):
            if part is not None:
                part.undo()
        self._loop = self._binding = None


def _unit(weight: float, count: float) -> float:
    """Return the power of two next to the weight per sample: to divide by it loses no bit."""
    return 2.0 ** round(math.log2(weight / count)) if weight > 0 else 1.0


def _batches_per_step(batches: int, steps: int) -> float:
    """Return the number by which Lightning gets so many steps from an epoch of these batches.

    It rounds their quotient up, so the next whole number where that gives the same, or else one
    that a rounding error does not lift above the steps.
    """
    whole = math.ceil(batches / steps)
    if math.ceil(batches / whole) == steps:
        return whole
    exact = batches / steps
    return exact if math.ceil(batches / exact) == steps else math.nextafter(exact, math.inf)


def _quotient(reference: float, weight: float | Tensor) -> Any:
    """Return reference / weight; infinite for a weight of 0, as with tensors."""
    return reference / weight if isinstance(weight, Tensor) or weight else math.inf


def _total(trainer: L.Trainer, weight: float | Tensor) -> Any:
    if not isinstance(weight, Tensor):
        return sum_over_ranks(trainer, weight)[0]
    total = weight.clone()
    if trainer.world_size > 1:  # in the device's queue, without waiting for it
        torch.distributed.all_reduce(total)
    return total


def _reason(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    if not module.automatic_optimization:
        return "the module optimizes by hand, and decides itself when it takes a step"
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return "training_step takes its batches from the loader itself, unseen"
    if trainer.accumulate_grad_batches != 1:
        return (
            f"the Trainer counts {trainer.accumulate_grad_batches} batches per step, this counts "
            "samples; leave accumulate_grad_batches out"
        )
    if isinstance(data_module_of(trainer), ImageDataModule):
        return (
            "gpuopt's data deal out whole windows, for which the loss is weighted already; leave "
            "it out, and give the Trainer data.accumulate_grad_batches()"
        )
    strategy: Any = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        return f"how {type(strategy).__name__} averages gradients over ranks is not known"
    for callback in callbacks_of(trainer):
        if isinstance(callback, (GradientAccumulationScheduler, StochasticWeightAveraging)):
            return f"{type(callback).__name__} sets accumulate_grad_batches as well"
    return None
