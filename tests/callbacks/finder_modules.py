"""A device without memory limits of its own, and modules that gpuopt does not know."""

import contextlib
import itertools

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

MIB = 2**20


class FakeMeter:
    """Memory that steps say they take: 100 MiB at rest and 10 MiB for each sample.

    Args:
        capacity_mib: What the meter reports.
        real_mib: Where steps begin to fail; None: where the capacity ends.
        phase: In which part of a step they fail.
    """

    def __init__(self, capacity_mib=800, real_mib=None, phase="forward"):
        self.capacity_mib, self.real_mib = capacity_mib, real_mib or capacity_mib
        self.phase = phase
        self.sizes, self.peak, self.failures = [], 0, 0
        self._ticks = itertools.count()

    def take(self, samples):
        self.sizes.append(samples)
        self.peak = max(self.peak, (100 + 10 * samples) * MIB)
        self.check(samples, "forward")

    def check(self, samples, phase):
        if phase == self.phase and 100 + 10 * samples > self.real_mib:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def capacity_bytes(self):
        return self.capacity_mib * MIB

    def start(self):
        self.peak = 0

    def peak_bytes(self):
        return self.peak

    def resident_bytes(self):
        return 100 * MIB

    def clock_s(self):
        return float(next(self._ticks))

    def capped(self):
        return contextlib.nullcontext()


class Rows(Dataset):
    """Draws from a generator of its own and from the global one, and counts its reads."""

    def __init__(self, named=False):
        self.named, self.reads = named, 0
        self.noise = torch.Generator().manual_seed(5)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        self.reads += 1
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(8, generator=generator) + torch.rand(8, generator=self.noise)
        x = x + torch.rand(8)  # and of the global generator
        return {"x": x, "y": index % 3, "name": str(index)} if self.named else (x, index % 3)


class Unknown(L.LightningModule):
    """Somebody's module: batch norm, dropout, tuples, a counter and a schedule."""

    def __init__(self, meter):
        super().__init__()
        self.meter = [meter]  # not a module
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)
        )
        self.calls, self.seen = 0, []

    def training_step(self, batch, batch_idx):
        self.meter[0].take(len(batch[0]))
        self.calls += 1
        self.seen.append(len(batch[0]))
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        loss.register_hook(lambda _: self.meter[0].check(len(batch[0]), "backward"))
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.meter[0].check(len(batch[0]), "validation")
        self.log("val", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class ByHand(Unknown):
    """Manual optimization of dictionaries, with two optimizers."""

    def __init__(self, meter):
        super().__init__(meter)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.meter[0].take(len(batch["x"]))
        assert len(batch["name"]) == len(batch["x"])
        self.seen.append(len(batch["x"]))
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.net(batch["x"]), batch["y"])
            self.manual_backward(loss)
            optimizer.step()
        self.lr_schedulers().step()
        self.log("loss", loss, batch_size=len(batch["x"]))

    def validation_step(self, batch):
        self.log("val", self.net(batch["x"]).sum(), batch_size=len(batch["x"]))

    def configure_optimizers(self):
        first, second = self.net[0].parameters(), self.net[4].parameters()
        optimizers = [torch.optim.SGD(first, 0.1, momentum=0.9), torch.optim.Adam(second)]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizers[0], 2)]


class OwnData(L.LightningDataModule):
    """Keeps its batch size under a name of its own."""

    def __init__(self, per_step=4):
        super().__init__()
        self.per_step, self.asked, self.rows = per_step, 0, Rows(named=True)

    def train_dataloader(self):
        self.asked += 1
        torch.rand(1)
        return DataLoader(self.rows, batch_size=self.per_step, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=self.per_step)
