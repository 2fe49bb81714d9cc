"""One line per epoch, and a measured forecast after the first steps."""

import logging
import math
import time
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities.types import STEP_OUTPUT

from gpuopt.measure import duration_text

__all__ = ["EpochSummary"]

_log = logging.getLogger(__name__)

_WARMUP_STEPS = 3  # not part of the forecast: kernels are chosen and caches filled
_MEASURED_STEPS = 10


class EpochSummary(L.Callback):
    """Logs what an epoch brought, for people and for logs without a progress bar.

    Attributes:
        forecast_s: Measured forecast of the training that was left after the first steps, seconds;
            None while unknown, as it stays where neither epochs nor steps limit the training.
    """

    def __init__(self) -> None:
        self.forecast_s: float | None = None
        self._steps = 0
        self._marked_at = 0.0
        self._epoch_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier fit, whose steps say nothing about this one."""
        self.forecast_s = None
        self._steps = 0
        self._epoch_at = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure the first batches and say how long training will take."""
        self._steps += 1
        if self._steps == _WARMUP_STEPS:
            self._marked_at = time.monotonic()
        if self._steps != _WARMUP_STEPS + _MEASURED_STEPS:
            return
        left = _batches_left(trainer)
        if left is None:
            return
        batch_s = (time.monotonic() - self._marked_at) / _MEASURED_STEPS
        self.forecast_s = batch_s * left
        _log.info(
            "training takes about %s more (measured: %.0f ms per micro-batch)",
            duration_text(self.forecast_s),
            1000 * batch_s,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's metrics."""
        # In anybody's project the epoch's mean stands beside the last step's value, and Lightning's
        # monitor adds the rates.
        shown = "  ".join(
            f"{name.removesuffix('_epoch')} {float(value):.4f}"
            for name, value in sorted(trainer.callback_metrics.items())
            if not name.startswith("lr-")
            and f"{name}_epoch" not in trainer.callback_metrics
            and not name.endswith("_step")
        )
        duration = duration_text(time.monotonic() - self._epoch_at) if self._epoch_at else "resumed"
        epoch = str(trainer.current_epoch + 1)
        if _limits_epochs(trainer):
            epoch += f"/{trainer.max_epochs}"
        _log.info("epoch %s  %s  (%s)", epoch, shown, duration)


def _limits_epochs(trainer: L.Trainer) -> bool:
    """Tell whether a number of epochs ends the training; Lightning writes -1 where none does."""
    return trainer.max_epochs is not None and trainer.max_epochs >= 0


def _batches_left(trainer: L.Trainer) -> float | None:
    """Count the batches up to the limit of epochs or steps; None when neither tells."""
    left = math.inf
    if _limits_epochs(trainer):
        per_epoch = float(trainer.num_training_batches)  # infinite for data of unknown length
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        left = ((trainer.max_epochs or 0) - trainer.current_epoch) * per_epoch - done
    if trainer.max_steps > 0:
        steps = trainer.max_steps - trainer.global_step
        left = min(left, steps * trainer.accumulate_grad_batches)
    return max(0.0, left) if math.isfinite(left) else None
