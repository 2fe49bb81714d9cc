"""A progress bar that shows the loss without making the device wait."""

import lightning.pytorch as L
from lightning.pytorch.callbacks import RichProgressBar

from gpuopt.callbacks.step_log import StepLog

__all__ = ["LossBar"]


class LossBar(RichProgressBar):
    """Lightning's bar with the newest loss that a `StepLog` has read.

    What `LightningModule.log` shows with `prog_bar` is read from the device after every batch.

    Args:
        step_log: Another callback of the same Trainer.
    """

    def __init__(self, step_log: StepLog) -> None:
        super().__init__(leave=True)
        self._step_log = step_log

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return Lightning's metrics and the loss."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if self._step_log.loss is not None:
            metrics["train/loss"] = self._step_log.loss
        return metrics
