"""Find out from a few samples how the loss of a batch follows from the losses of its parts."""

import contextlib
import functools
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from gpuopt.errors import FaultError, InputError
from gpuopt.memory.batch_dependence import depends_on_batch
from gpuopt.memory.device_errors import free_memory
from gpuopt.steps.accumulation_window import has_loss_weight
from gpuopt.steps.batch_parts import picked, tensors_of
from gpuopt.steps.own_collectives import refusing_collectives
from gpuopt.steps.split_step import is_fit_for
from gpuopt.steps.split_work import Arguments, loss_of
from gpuopt.steps.step_logs import LogCall, recorded_logs
from gpuopt.steps.step_state import StateKeeper, StepState
from gpuopt.steps.weighted_loss import ignores_some, is_weighted

__all__ = ["SplitRule"]

_log = logging.getLogger(__name__)

_MOST_SAMPLES = 8
# One batch may say nothing of what makes samples differ, such as the weights of classes.
_COMPARED_BATCHES = 3
# One draw may fall like another: an augmentation that half of the batches get.
_OTHER_DRAWS = 4


class SplitRule:
    """Knows how values of parts give that of the whole, once it has seen a batch.

    Args:
        module: Whose training step it is.
        keeper: Brings the module back to the state before each trial.
        call: Runs the training step.
        give_up: Gives the error to raise when even two samples do not fit.
        weigh: Gives the weight of a batch in a mean, from the batch and its number of samples.

    Attributes:
        loss: `mean` over samples, or `sum` of the parts, when the batch itself holds the weights.
        logs: Names of logged values that are no means over samples: `sum` over parts, or `weighted`
            means, as the loss.
    """

    def __init__(
        self,
        module: L.LightningModule,
        keeper: StateKeeper,
        call: Callable[[Any, Arguments], Any],
        give_up: Callable[[], FaultError],
        weigh: Callable[[Any, int], Any],
    ) -> None:
        self.loss = "mean"
        self.logs: dict[str, str] = {}
        self._module = module
        self._keeper = keeper
        self._call = call
        self._give_up = give_up
        self._weigh = weigh
        self._left = _COMPARED_BATCHES
        self._is_compared = False  # the running batch

    def begin(self) -> None:
        """Turn to the next batch."""
        self._is_compared = False

    def settle(self, batch: Any, count: int, arguments: Arguments) -> None:
        """Compare the loss of a few samples with the losses of two parts of them.

        Does so for the first batches that tell something; a loss of 0 does not.

        Args:
            batch: The batch that did not fit.
            count: Its samples, at least 2.
            arguments: What else the training step takes.

        Raises:
            InputError: When the loss is neither a mean over samples nor a sum of them, or the
                step exchanges tensors between ranks.
            FaultError: When the memory does not suffice for two samples.
        """
        self._refuse_weighted(batch)
        samples = min(count, _MOST_SAMPLES)
        while self._left and not self._is_compared:
            if is_fit_for(functools.partial(self._compare, batch, count, samples, arguments)):
                return
            free_memory()
            if samples == 2:
                raise self._give_up()
            samples = max(2, samples // 2)

    def _refuse_weighted(self, batch: Any) -> None:
        if has_loss_weight(self._module.trainer):
            return
        parts = list(self._module.modules())
        is_weighted_one = any(is_weighted(part) for part in parts)
        if is_weighted_one or ignores_some(parts, batch):
            what = "class weights" if is_weighted_one else "labels that it ignores (ignore_index)"
            raise InputError(
                f"the module has a loss with {what}, so it does not divide by the number of "
                "samples, and a batch that does not fit cannot be split: lower the micro-batch "
                "size, or train with GradientAccumulation(..., loss_weight=...)"
            )

    def _compare(self, batch: Any, count: int, samples: int, arguments: Arguments) -> None:
        middle = max(1, (3 * samples) // 8)  # unequal parts tell a mean from a mean of means
        rows = _unlike(batch, count, samples)
        before = self._keeper.take()
        try:
            parts = [picked(batch, r, count) for r in (rows, rows[:middle], rows[middle:])]
            runs = [self._try(part, before, arguments) for part in parts]
        finally:
            self._keeper.restore(before)
        weights = float(self._weigh(parts[0], samples)), float(self._weigh(parts[1], middle))
        share = weights[1] / weights[0] if weights[0] else middle / samples
        shares = (share, 1 - share)
        whole, first, second = (loss for loss, _ in runs)
        if whole is None or first is None or second is None or not bool(whole != 0):
            return
        verdict = _verdict(whole, first, second, shares)
        if verdict is None or (self._left < _COMPARED_BATCHES and verdict != self.loss):
            if self._is_random(parts[0], whole, before, arguments):
                self._is_compared, self._left = True, 0  # a mean, as nearly all losses are
                return
            raise InputError(
                "the loss of a batch is neither the mean over its samples nor their sum (of "
                f"{samples} samples {float(whole):.6g}, of parts of them {float(first):.6g} and "
                f"{float(second):.6g}), so a batch that does not fit cannot be split: lower the "
                "micro-batch size"
            )
        self.loss, self._is_compared, self._left = verdict, True, self._left - 1
        by_samples = (middle / samples, 1 - middle / samples)
        named = [{call.name: call.value for call in calls} for _, calls in runs]
        for name in set(named[0]) & set(named[1]) & set(named[2]):
            values = [n[name] for n in named if isinstance(n[name], (Tensor, float))]
            one = [torch.as_tensor(value) for value in values]
            if len(one) == 3 and _verdict(one[0], one[1], one[2], by_samples) != "mean":
                found = _verdict(one[0], one[1], one[2], shares)
                if found is not None:
                    self.logs[name] = "weighted" if found == "mean" else "sum"

    def _is_random(self, batch: Any, loss: Tensor, before: StepState, arguments: Arguments) -> bool:
        """Tell whether random numbers, drawn by the step itself, move its loss, and say so."""
        try:
            for draws in range(1, _OTHER_DRAWS + 1):
                other, _ = self._try(batch, before, arguments, draws)
                if other is not None and not _are_equal(loss, other):
                    _log.warning(
                        "with random numbers in training_step the result is that of a run with "
                        "the smaller micro-batch, no longer that of the one asked for; its loss "
                        "is taken for a %s over samples",
                        self.loss,
                    )
                    return True
        finally:
            self._keeper.restore(before)
        return False

    def _try(
        self, batch: Any, before: StepState, arguments: Arguments, draws: int = 0
    ) -> tuple[Tensor | None, list[LogCall]]:
        """Run the step from the state `before`, without gradients, and without logging.

        Args:
            batch: Some samples.
            before: The state; of the random numbers that follow it, `draws` are left out.
            arguments: What else the step takes.
            draws: How many.
        """
        self._keeper.restore(before)
        for _ in range(draws):
            _draw(self._module.device)
        # What parts log is held back, exchanges of its values included.
        with (
            torch.no_grad(),
            _made_certain(self._module),
            recorded_logs(self._module) as calls,
            refusing_collectives(self._module.trainer, "training_step"),
        ):
            loss = loss_of(self._call(batch, arguments))
        return loss, calls


@contextlib.contextmanager
def _made_certain(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm and dropout behave as in evaluation, and nothing else."""
    parts = [part for part in depends_on_batch(module) if part.training]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True


def _draw(device: torch.device) -> None:
    """Take one random number from each generator that `Generators` keeps."""
    random.random()
    np.random.random()
    torch.rand(1)
    torch.rand(1, device=device)


def _unlike(batch: Any, count: int, samples: int) -> list[int]:
    """Choose samples from all over the batch, by label where there is one, the least first.

    Then parts of them have other labels, and a loss that weights those differs.
    """
    labels = [t for t in tensors_of(batch) if t.dtype == torch.int64 and t.shape == (count,)]
    order = torch.argsort(labels[0], stable=True).tolist() if labels else list(range(count))
    return [order[place * (count - 1) // (samples - 1)] for place in range(samples)]


def _verdict(
    whole: Tensor, first: Tensor, second: Tensor, shares: tuple[float, float]
) -> str | None:
    mean = first * shares[0] + second * shares[1]
    if _are_equal(whole, mean):
        return "mean"
    return "sum" if _are_equal(whole, first + second) else None


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one.double(), other.double(), rtol=_tolerance(one), atol=1e-12))


def _tolerance(value: Tensor) -> float:
    """Return how far rounding may move a value: kernels differ by batch size."""
    if value.dtype == torch.float64:
        return 1e-9
    is_coarse = value.is_cuda or torch.is_autocast_enabled(value.device.type)
    return 2e-2 if is_coarse or value.dtype != torch.float32 else 1e-4
