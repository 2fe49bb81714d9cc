"""Another global batch from an epoch on, for gpuopt's own data, which deal out whole windows."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L

from gpuopt.batch_schedule import BatchSchedule
from gpuopt.callbacks.batch_by_epoch import BatchByEpoch
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.steps.trainer_parts import data_module_of, reload_every, set_reload_every

__all__ = ["GlobalBatchSchedule"]


class GlobalBatchSchedule(L.Callback):
    """Lets an `ImageDataModule` cut its epochs into other windows, and tells the Trainer.

    The windows, not the batches, are what such data deal out, and the loss is weighted by them;
    so a change is a new loader, for which the Trainer asks at the start of the epoch. For other
    data there is `GradientAccumulation`.

    Args:
        global_batch_size: Samples per optimizer step in epoch 0, over all devices.
        changes: Further sizes by the epoch from which they hold.
        learning_rate_rule: What the learning rates, which are those of epoch 0, become: `none`,
            `linear` or `sqrt`.
    """

    def __init__(
        self,
        global_batch_size: int,
        changes: Mapping[int, int],
        *,
        learning_rate_rule: str = "none",
    ) -> None:
        self._batches = BatchByEpoch(
            BatchSchedule.of(global_batch_size, changes), learning_rate_rule, None
        )
        self._size = self._batches.at(0)  # of the data's present windows
        self._reload_every = 0

    def summary(self) -> dict[str, Any]:
        """Return what was changed, and by which rule."""
        return self._batches.summary()

    def state_dict(self) -> dict[str, Any]:
        """Remember the size that the loader's position is counted in."""
        return {"global_batch_size": self._size, "batches": self._batches.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another has stopped."""
        self._batches.load_state_dict(state_dict["batches"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin with the first epoch's size.

        Raises:
            InputError: When the data do not deal out windows.
        """
        if stage == "fit":
            if not isinstance(data_module_of(trainer), ImageDataModule):
                raise InputError(
                    "GlobalBatchSchedule changes the windows of gpuopt's data modules: with other "
                    "data use GradientAccumulation(global_batch_schedule=...)"
                )
            self._reload_every = reload_every(trainer)
            self._batches.begin()
            self._take(trainer, self._batches.at(0))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Cut the epoch as the checkpoint has it, before the loader is made."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is not None and trainer.training:
            self._take(trainer, state["global_batch_size"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make another loader when the checkpoint was the end of an epoch before a change."""
        self._batches.enter(trainer)
        if self._prepare(trainer, trainer.current_epoch):
            trainer.fit_loop.setup_data()
            _count_as_ended(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the epoch's learning rate, and tell of the change."""
        self._batches.enter(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loader that the batch comes from."""
        set_reload_every(trainer, self._reload_every)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for another loader when the next epoch has another size."""
        self._prepare(trainer, trainer.current_epoch + 1)

    def _prepare(self, trainer: L.Trainer, epoch: int) -> bool:
        size = self._batches.at(epoch)
        is_over = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epoch
        if size == self._size or is_over:
            return False
        loader = trainer.train_dataloader
        if loader is not None:
            loader.close()  # its processes; the new one starts its own
        self._take(trainer, size)
        set_reload_every(trainer, 1)
        return True

    def _take(self, trainer: L.Trainer, size: int) -> None:
        data = data_module_of(trainer)
        assert isinstance(data, ImageDataModule)  # `setup` has refused any other
        self._size = data.global_batch_size = size
        trainer.accumulate_grad_batches = data.accumulate_grad_batches(trainer.world_size)


def _count_as_ended(trainer: L.Trainer) -> None:
    """Count the epoch that is over in the batches of the new one.

    Lightning takes a checkpoint that was written after an epoch's last batch for the end of the
    epoch when it has as many batches as the loader; `completed` lags by one in it.
    """
    counts = trainer.fit_loop.epoch_loop.batch_progress.current
    more = int(trainer.num_training_batches) - counts.ready
    for name in ("ready", "started", "processed", "completed"):
        setattr(counts, name, getattr(counts, name) + more)
