"""Save where a resume is exact: between optimizer steps inside an epoch, and at its end."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from gpuopt.callbacks.agreement import any_rank
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import Sidecar
from gpuopt.storage.checkpoint import link_copy

__all__ = ["DurableCheckpoint"]

_log = logging.getLogger(__name__)


class DurableCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, `previous.ckpt` and `best.ckpt` in one folder.

    Lightning resumes wrongly from a checkpoint that was saved inside an accumulation window (the
    partial gradients are lost) or after the last batch of an epoch but before its end (the loop
    counters are poisoned for the second resume). This callback saves at neither. Give the Trainer
    `DurableCheckpointIO` as a plugin, so that each write is atomic and has a checksum.

    Args:
        folder: Where the files go.
        monitor: Logged value that decides what is best; while it is no number, the newest epoch is
            kept as the best.
        mode: `max` or `min`.
        every_n_steps: Save inside an epoch after this many optimizer steps; None: never.
        every_n_seconds: Save inside an epoch after this much time; None: never.

    Raises:
        InputError: For another mode.
    """

    def __init__(
        self,
        folder: str | Path,
        monitor: str = "val/f1",
        mode: str = "max",
        every_n_steps: int | None = None,
        every_n_seconds: float | None = 300.0,
    ) -> None:
        if mode not in ("max", "min"):
            raise InputError(f"callbacks.checkpoint.mode={mode} is neither max nor min")
        self.folder = Path(folder)
        self.monitor = monitor
        self.mode = mode
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._every_n_steps = every_n_steps
        self._every_n_seconds = every_n_seconds
        self._saved_step = 0
        self._saved_at = time.monotonic()

    @property
    def last_path(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.ckpt"

    @property
    def best_model_path(self) -> str:
        """The same as Lightning asks for it, in `trainer.test(ckpt_path="best")`; may be empty."""
        return str(self.best_path) if self.best_path.is_file() else ""

    def state_dict(self) -> dict[str, Any]:
        """Remember the best score, so that a resumed run does not forget it."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score over from a checkpoint."""
        self.best_score = state_dict["best_score"]
        self.best_epoch = state_dict["best_epoch"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting steps and seconds."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time and a resume from here is exact."""
        is_time = is_exact_point(trainer) and self._is_due(trainer)
        if is_time and not any_rank(trainer, not _is_finite(outputs)):
            self.save_or_warn(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the epoch, and keep it as the best when it is.

        Runs after validation, when averaged weights are no longer swapped in.
        """
        score = trainer.callback_metrics.get(self.monitor)
        before = self.best_score, self.best_epoch
        is_best = score is not None and self._improves(float(score))
        if is_best and score is not None:  # known before the save, which stores it
            self.best_score, self.best_epoch = float(score), trainer.current_epoch
        if not self.save_or_warn(trainer):
            self.best_score, self.best_epoch = before
        elif trainer.is_global_zero and (
            is_best or self.best_score is None or not self.best_path.exists()
        ):
            self._keep_as_best()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say when nothing told which epoch is the best."""
        if self.best_score is None and trainer.is_global_zero and self.best_path.exists():
            _log.warning(
                "%s was never logged as a number, so %s holds the newest epoch; logged were: %s",
                self.monitor,
                self.best_path.name,
                ", ".join(sorted(trainer.callback_metrics)) or "nothing",
            )

    def _keep_as_best(self) -> None:
        record = Sidecar(self.last_path).match()
        if record is None:
            return
        try:
            link_copy(self.last_path, record, self.best_path)
        except OSError as error:
            raise FaultError(
                f"cannot write {self.best_path} ({error.strerror}): free space and resume"
            ) from error

    def save(self, trainer: L.Trainer) -> Path:
        """Write `last.ckpt` now; every rank must call it.

        Raises:
            FaultError: When the disk is full or the folder cannot be written.
        """
        failure = _save_on_all(trainer, self.last_path)
        if isinstance(failure, OSError):
            raise FaultError(
                f"cannot write {self.last_path} ({failure.strerror}): free space and resume; "
                "the checkpoint before is intact"
            ) from failure
        if failure is not None:
            raise failure
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        return self.last_path

    def save_or_warn(self, trainer: L.Trainer) -> bool:
        """Save; a full disk costs this checkpoint, not the training."""
        try:
            self.save(trainer)
        except FaultError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            _log.warning("%s; training goes on", error)
            self._saved_at = time.monotonic()
            return False
        return True

    def _improves(self, score: float) -> bool:
        if score != score:  # NaN is never the best
            return False
        if self.best_score is None:
            return True
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _is_due(self, trainer: L.Trainer) -> bool:
        steps = trainer.global_step - self._saved_step
        if self._every_n_steps is not None and steps >= self._every_n_steps:
            return True
        if self._every_n_seconds is None or steps == 0:
            return False
        due = time.monotonic() - self._saved_at >= self._every_n_seconds
        return any_rank(trainer, due)  # clocks differ between ranks


def _save_on_all(trainer: L.Trainer, path: Path) -> OSError | FaultError | None:
    """Save, and tell all ranks what came in the way of the first one, which alone writes.

    They would go on otherwise, and wait for a rank that does something else.
    """
    failure = None
    try:
        trainer.save_checkpoint(path)
    except (OSError, FaultError) as error:
        failure = error
        trainer.strategy.barrier()  # in which the others wait, at the end of that call
    told: OSError | FaultError | None = trainer.strategy.broadcast(failure)
    return told


def is_exact_point(trainer: L.Trainer) -> bool:
    """Tell whether a resume from a checkpoint saved now would be exact.

    True at the end of a batch that finished an optimizer step and is not the last of its epoch.
    """
    loop = trainer.fit_loop.epoch_loop
    return loop._accumulated_batches_reached() and not loop.batch_progress.is_last_batch


def _is_finite(outputs: STEP_OUTPUT) -> bool:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return not isinstance(loss, torch.Tensor) or bool(torch.isfinite(loss).all())
