"""A module whose every update shows, and the end of its process at any step."""

import hashlib

import lightning.pytorch as L
import torch


class Tiny(L.LightningModule):
    """A linear model whose every update shows in its weights; counts what it saw."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 10)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.trainer.current_epoch, batch_idx, batch.ids.tolist()))
        logits = self.layer(batch.images.flatten(1) / 255)
        losses = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
        return (losses * batch.weights).sum() * self.trainer.accumulate_grad_batches

    def validation_step(self, batch, batch_idx):
        assert batch.images.dtype == torch.uint8

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Killed(Exception):
    """Stands for the end of the process."""


class KillAfter(L.Callback):
    """Ends the process once so many optimizer steps are done."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.steps is not None and trainer.global_step >= self.steps:
            raise Killed


class SaveAtSteps(L.Callback):
    """Saves at optimizer steps that do not end an epoch, and at epoch ends."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        loop = trainer.fit_loop.epoch_loop
        if not loop._should_accumulate() and not loop.batch_progress.is_last_batch:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.path)


class SaveEach(L.Callback):
    """Saves at every optimizer step, into a file of its own."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def digest(module):
    return hashlib.sha256(module.layer.weight.detach().numpy().tobytes()).hexdigest()
