"""One line per epoch, and a measured forecast after the first steps."""

import logging
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
        forecast_s: Measured forecast of the training that was left after the first steps, seconds.
    """

    def __init__(self) -> None:
        self.forecast_s: float | None = None
        self._steps = 0
        self._marked_at = 0.0
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
        batch_s = (time.monotonic() - self._marked_at) / _MEASURED_STEPS
        self.forecast_s = batch_s * _batches_left(trainer)
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
        _log.info(
            "epoch %d/%s  %s  (%s)", trainer.current_epoch + 1, trainer.max_epochs, shown, duration
        )


def _batches_left(trainer: L.Trainer) -> float:
    per_epoch = float(trainer.num_training_batches)
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    left = (max(1, trainer.max_epochs or 1) - trainer.current_epoch) * per_epoch - done
    if trainer.max_steps > 0:
        steps = trainer.max_steps - trainer.global_step
        left = min(left, steps * trainer.accumulate_grad_batches)
    return max(0.0, left)
