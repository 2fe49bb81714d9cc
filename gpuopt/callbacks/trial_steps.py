"""Real steps of a real module inside of a fit that has not begun, and that notices none of them."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from gpuopt.callbacks.adaptive_batch_size import AdaptiveBatchSize
from gpuopt.callbacks.oom_recovery import OomRecovery
from gpuopt.steps.step_logs import recorded_logs
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["TrialSteps", "no_steps_because", "recoveries_of", "without_recoveries"]


class TrialSteps:
    """Takes training steps that callbacks, loggers and other ranks are not told of.

    What the steps change is put back by `gpuopt.steps.fit_state.FitState`.

    Args:
        trainer: In `on_fit_start` or later.
        module: That it fits.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._trainer = trainer
        self._module = module

    def train(self, batch: Any) -> None:
        """Take an optimizer step with a batch on the device."""
        trainer, loop = self._trainer, self._trainer.fit_loop.epoch_loop
        arguments = loop._build_kwargs(OrderedDict(), batch, 0)
        with torch.enable_grad():
            if self._module.automatic_optimization:
                loop.automatic_optimization.run(trainer.optimizers[0], 0, arguments)
            else:
                loop.manual_optimization.run(arguments)

    def on_device(self, batch: Any) -> Any:
        """Move a batch as training does, with its hooks."""
        trainer, module = self._trainer, self._module
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep callbacks, loggers and other ranks out of it."""
        trainer: Any = self._trainer
        with contextlib.ExitStack() as stack:
            stack.enter_context(without_recoveries(trainer))
            stack.enter_context(recorded_logs(self._module))
            stack.enter_context(_replaced(trainer, "callbacks", []))
            loggers = [DummyLogger()] if trainer.loggers else []
            stack.enter_context(_replaced(trainer, "_loggers", loggers))
            stack.enter_context(_replaced(trainer.strategy, "model", self._module))
            yield


def recoveries_of(trainer: L.Trainer) -> list[OomRecovery | AdaptiveBatchSize]:
    """List the callbacks that go on with parts of a batch when memory runs out."""
    return [c for c in callbacks_of(trainer) if isinstance(c, (OomRecovery, AdaptiveBatchSize))]


@contextlib.contextmanager
def without_recoveries(trainer: L.Trainer) -> Iterator[None]:
    """Let errors of memory show for a while."""
    with contextlib.ExitStack() as stack:
        for callback in recoveries_of(trainer):
            stack.enter_context(callback.standing_aside())
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def no_steps_because(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    """Say why single steps cannot be taken, and taken back, of a module; None when they can."""
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return "training_step takes its batches from the loader itself"
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        return f"{type(trainer.strategy).__name__} spreads the weights over several devices"
    return None
