"""A training whose parts take as long as they say, on a clock that only they move."""

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Clock:
    """Stands still but for what is done."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def spend(self, seconds):
        self.now_s += seconds


class Images(Dataset):
    def __init__(self, clock, load_s, count=20):
        self._clock, self._load_s, self._count = clock, load_s, count

    def __len__(self):
        return self._count

    def __getitem__(self, row):
        self._clock.spend(self._load_s)
        return torch.full((4,), float(row)), row % 2


class SlowSgd(torch.optim.SGD):
    def __init__(self, parameters, clock, seconds):
        super().__init__(parameters, lr=0.1, momentum=0.9)
        self._clock, self._seconds = clock, seconds

    def step(self, closure=None):
        loss = super().step(closure)
        self._clock.spend(self._seconds)
        return loss


class Module(L.LightningModule):
    """Each part spends its time; `fixed_s` of the forward pass does not depend on the samples."""

    def __init__(self, clock, spent):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.clock, self.spent = clock, spent
        self.samples = 0

    def training_step(self, batch, batch_idx):
        images, targets = batch
        self.samples = len(images)
        self.clock.spend(self.spent["fixed_s"] + self.spent["forward_s"] * len(images))
        return nn.functional.cross_entropy(self.net(images), targets)

    def backward(self, loss):
        loss.backward()
        self.clock.spend(self.spent["backward_s"] * self.samples)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.clock.spend(self.spent["preparation_s"])
        return batch

    def on_train_batch_end(self, *args):
        self.clock.spend(self.spent["hook_s"])

    def configure_optimizers(self):
        return SlowSgd(self.parameters(), self.clock, self.spent["optimizer_s"])


class Spends(L.Callback):
    def __init__(self, clock, seconds):
        self._clock, self._seconds = clock, seconds

    def on_train_batch_end(self, *args):
        self._clock.spend(self._seconds)


USUAL = {
    "load_s": 1e-5,
    "preparation_s": 1e-4,
    "forward_s": 0.004,
    "fixed_s": 0.0005,
    "backward_s": 0.0075,
    "optimizer_s": 0.002,
    "callback_s": 1e-4,
    "hook_s": 1e-4,
}


def trainer_with(*callbacks, **options):
    return L.Trainer(
        max_epochs=1,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **{"enable_checkpointing": False, **options},
    )


def parts_of(spent, clock=None, batch_size=4):
    """A module, its loader and a callback that spend these times."""
    spent, clock = {**USUAL, **spent}, clock or Clock()
    loader = DataLoader(Images(clock, spent["load_s"]), batch_size)
    return Module(clock, spent), loader, Spends(clock, spent["callback_s"]), clock
