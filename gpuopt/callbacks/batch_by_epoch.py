"""The global batch that belongs to an epoch: its learning rate, and telling of its changes."""

import logging
import math
from typing import Any

import lightning.pytorch as L

from gpuopt.batch_schedule import BatchSchedule, check_rule, learning_rate_factor
from gpuopt.callbacks.learning_rates import scale_learning_rates
from gpuopt.errors import InputError

__all__ = ["BatchByEpoch"]

_log = logging.getLogger(__name__)


class BatchByEpoch:
    """Follows a schedule of the global batch.

    Args:
        schedule: Samples per optimizer step by epoch.
        rule: What learning rates become: `none`, `linear` or `sqrt`.
        reference: Samples per step that they were chosen for; None: those of epoch 0.

    Attributes:
        events: Every change, in order, as plain values.

    Raises:
        InputError: For an unknown rule, or one that could change nothing.
    """

    def __init__(self, schedule: BatchSchedule, rule: str, reference: int | None) -> None:
        check_rule(rule)
        self._schedule = schedule
        self._rule = rule
        self._reference = reference or schedule.at(0)
        if rule != "none" and reference is None and not schedule.changes:
            raise InputError(
                f"learning_rate_rule={rule} changes nothing: the global batch stays at "
                f"{self._reference}; give learning_rate_reference_batch, the one that the "
                "learning rate was chosen for"
            )
        self._factor = 1.0  # that the optimizers hold
        self.events: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Forget an earlier fit: each makes its optimizers anew, or loads a state afterwards."""
        self._factor, self.events = 1.0, []

    def at(self, epoch: int) -> int:
        """Return the samples per step in an epoch."""
        return self._schedule.at(epoch)

    def steps(self, batches: int, batch_size: int, epochs: int) -> int:
        """Count the steps of some epochs of `batches` batches of `batch_size` samples each."""
        return sum(
            math.ceil(batches / math.ceil(self.at(epoch) / batch_size)) for epoch in range(epochs)
        )

    def summary(self) -> dict[str, Any]:
        """Return what was changed, and by which rule."""
        return {
            "learning_rate_rule": self._rule,
            "learning_rate_reference_batch": self._reference,
            "learning_rate_factor": self._factor,
            "changes": self.events,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes; the optimizers' own state holds the factor."""
        return {"factor": self._factor, "events": list(self.events)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another has stopped."""
        self._factor, self.events = state["factor"], list(state["events"])

    def enter(self, trainer: L.Trainer) -> None:
        """Change the learning rates to the epoch's, and tell of a new global batch.

        May be called again: a fit that goes on after the last batch of an epoch has no
        `on_train_epoch_start`, others have one beside `on_train_start`.
        """
        epoch = trainer.current_epoch
        size = self.at(epoch)
        factor = learning_rate_factor(self._rule, size, self._reference)
        if factor != self._factor:
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            scale_learning_rates(trainer.optimizers, schedules, factor / self._factor)
            self._factor = factor
        is_told = any(event["epoch"] == epoch for event in self.events)
        if epoch in self._schedule.changes and not is_told:
            self._tell(trainer, epoch, size, factor)

    def _tell(self, trainer: L.Trainer, epoch: int, size: int, factor: float) -> None:
        before, step = self.at(epoch - 1), trainer.global_step
        self.events.append(
            {
                "epoch": epoch,
                "step": step,
                "global_batch_size": size,
                "global_batch_size_before": before,
                "learning_rate_factor": factor,
            }
        )
        _log.info(
            "epoch %d: %d samples per step instead of %d, learning rate times %.4g (rule %s, "
            "reference batch %d)",
            epoch + 1,
            size,
            before,
            factor,
            self._rule,
            self._reference,
        )
        for logger in trainer.loggers:
            logger.log_metrics(
                {"global_batch_size": float(size), "learning_rate_factor": factor}, step=step
            )
