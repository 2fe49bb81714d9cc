"""The phases of each training step, for whatever marks them."""

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import _TunerExitException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer

from gpuopt.steps.phase_names import Phase
from gpuopt.steps.step_count import ends_step

__all__ = ["StepPhases"]

_SETTLING_STEPS = 3  # in which kernels are chosen, memory is reserved and loaders start


class StepPhases(L.Callback):
    """Goes through a window of optimizer steps: some that are only timed, then the marked ones.

    Put it behind all other callbacks: what these do at the end of a batch then belongs to the
    phase `optimizer`. What comes before a batch is `data`: the loader, the copy to the device.

    Args:
        plain: Steps without any mark, which are timed, before the others.
        marked: Steps that follow.
        stops: End the fit after the window, without validation and as a fit that is finished;
            else training goes on unmarked.
        on_step: Called after each step with the number that is done.

    Attributes:
        plain_step_ms: Mean time of an unmarked step; None when there were too few of them.
        marked_steps: That are over.
    """

    def __init__(
        self,
        *,
        plain: int,
        marked: int,
        stops: bool = True,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.plain_step_ms: float | None = None
        self.marked_steps = 0
        self._plain = plain
        self._marked = marked
        self._stops = stops
        self._on_step = on_step
        self._done = 0
        self._timed_since_s = 0.0
        self._is_marking = False
        self._phase: Phase | None = None

    # --- what a kind of mark does --------------------------------------------------------------

    @abstractmethod
    def _begin(self, device: torch.device) -> None:
        """Begin to mark; the device has done all that it was given."""

    @abstractmethod
    def _enter(self, phase: Phase) -> None:
        """Leave the phase before, if there is one, and enter another."""

    @abstractmethod
    def _next_step(self, device: torch.device) -> None:
        """End a marked step, of which `marked_steps` tells the number."""

    @abstractmethod
    def _end(self) -> None:
        """End all marks, whatever state they are in."""

    # --- hooks ---------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at once when there is no plain step."""
        self._done = self.marked_steps = 0
        self.plain_step_ms = None
        self._settle(pl_module.device)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the forward pass."""
        self._enter_if_marking("forward")

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Begin the backward pass."""
        self._enter_if_marking("backward")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin what comes after gradients: clipping, the optimizer, the schedule, callbacks."""
        self._enter_if_marking("optimizer")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Begin the optimizer, where no gradient was made by Lightning."""
        self._enter_if_marking("optimizer")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Go on to the next batch, the next step or the end of the window."""
        if self._done >= self._plain + self._marked:
            return
        if not ends_step(trainer):
            self._enter_if_marking("data")
            return
        self._done += 1
        if self._is_marking:
            self._end_marked_step(pl_module.device)
        self._settle(pl_module.device)
        if self._on_step is not None:
            self._on_step(self._done)
        if self._stops and self._done == self._plain + self._marked:
            raise _TunerExitException  # Lightning's own way to end a fit that was a search

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the marks of a training that was shorter than the window."""
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """End the marks of a training that fails."""
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """End the marks however the fit ended."""
        self._stop()

    # --- the window ----------------------------------------------------------------------------

    def _settle(self, device: torch.device) -> None:
        """Do what comes between the step before and the next one."""
        settling = min(_SETTLING_STEPS, self._plain)
        if self._done == settling and self._plain > settling:
            wait_for(device)
            self._timed_since_s = time.perf_counter()
        if self._done == self._plain:
            wait_for(device)
            if self._plain > settling:
                elapsed_s = time.perf_counter() - self._timed_since_s
                self.plain_step_ms = 1000 * elapsed_s / (self._plain - settling)
            self._is_marking = True
            self._begin(device)
            self._enter_if_marking("data")

    def _end_marked_step(self, device: torch.device) -> None:
        self.marked_steps += 1
        if self.marked_steps == self._marked:
            self._enter_if_marking("profiler")
            wait_for(device)  # so that the last step is over on the device as well
            self._next_step(device)
            self._stop()
        else:
            self._next_step(device)
            self._enter_if_marking("data")

    def _enter_if_marking(self, phase: Phase) -> None:
        if self._is_marking and phase != self._phase:
            self._phase = phase
            self._enter(phase)

    def _stop(self) -> None:
        if self._is_marking:
            self._is_marking = False
            self._phase = None
            self._end()


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
