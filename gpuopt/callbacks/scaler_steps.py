"""How many optimizer steps fp16's gradient scaler has skipped."""

import logging
from collections import deque
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from gpuopt.callbacks.device_queue import HostCopy
from gpuopt.callbacks.step_count import ends_step, is_logged, steps_done

__all__ = ["ScalerSteps"]

_log = logging.getLogger(__name__)


class ScalerSteps(L.Callback):
    """Counts the steps that `GradScaler` skips because a gradient is infinite or no number.

    A few are meant: the scale grows until one overflows. Many mean that training stands still.
    The scaler halves its scale after a skipped step and never else, which is counted on the
    device; nothing waits for it. Does nothing without a scaler.

    Logs `scaler/skipped_steps` and `scaler/scale` every `log_every_n_steps` steps, and says in
    the end how many it were.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._skipped: Tensor | int = 0
        self._before: Tensor | None = None
        self._scale: Tensor | None = None
        self._waiting: deque[tuple[int, HostCopy, HostCopy]] = deque()

    def summary(self) -> dict[str, Any] | None:
        """Return counts of steps and the present scale; None when there was no scaler."""
        if self._scale is None:
            return None
        return {
            "steps": self._steps,
            "skipped_steps": int(self._skipped),
            "scale": float(self._scale),
        }

    def state_dict(self) -> dict[str, Any]:
        """Remember the counts."""
        return {"steps": self._steps, "skipped_steps": int(self._skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._steps, self._skipped = state_dict["steps"], state_dict["skipped_steps"]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the scale, which the scaler overwrites."""
        scale = _scale_of(trainer)
        self._before = None if scale is None else scale.clone()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Compare the scales after a step."""
        scale, before, self._before = _scale_of(trainer), self._before, None
        if scale is None or before is None or not ends_step(trainer):
            return
        self._steps += 1
        self._skipped = self._skipped + (scale < before).to(torch.int64)
        self._scale = scale
        step = steps_done(trainer)
        if is_logged(trainer, step):
            self._waiting.append((step, HostCopy(self._skipped), HostCopy(scale)))
        self._write(trainer, wait=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what is left."""
        self._write(trainer, wait=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how many steps were skipped."""
        found = self.summary()
        if found is not None and found["skipped_steps"]:
            _log.info(
                "fp16: %d of %d optimizer steps were skipped because gradients overflowed; the "
                "loss is scaled by %g now",
                found["skipped_steps"],
                found["steps"],
                found["scale"],
            )

    def _write(self, trainer: L.Trainer, *, wait: bool) -> None:
        while self._waiting:
            step, skipped, scale = self._waiting[0]
            if not (wait or (skipped.is_ready() and scale.is_ready())):
                return
            self._waiting.popleft()
            values = {"scaler/skipped_steps": skipped.value(), "scaler/scale": scale.value()}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)


def _scale_of(trainer: L.Trainer) -> Tensor | None:
    """Return the scale where it lies: `get_scale` would wait for the device."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale: Tensor | None = getattr(scaler, "_scale", None)
    return scale
