"""Modules whose forward, backward or validation pass runs out of memory on demand."""

import lightning.pytorch as L
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gpuopt.memory.meter import MemoryReading


class Limits:
    """Most samples that fit; None: any number.

    `at` restricts the failures to one training batch, counted from 0 over all epochs.
    """

    def __init__(self, forward=None, backward=None, validation=None, at=None):
        self.forward, self.backward, self.validation, self.at = forward, backward, validation, at
        self.batch = -1
        self.failures = 0

    def check(self, name, samples):
        most = getattr(self, name)
        is_due = name == "validation" or self.at is None or self.batch == self.at
        if most is not None and samples > most and is_due:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class _Fuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, limits):
        ctx.limits, ctx.samples = limits, len(values)
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.limits.check("backward", ctx.samples)
        return gradient, None


NORMS = {"layer": lambda n: nn.GroupNorm(1, n), "batch": nn.BatchNorm1d}


class Net(L.LightningModule):
    """A small network that logs what people log, and may run out of memory."""

    def __init__(self, limits=None, norm="layer", dropout=0.0):
        super().__init__()
        self.limits = limits or Limits()
        self.before = nn.Sequential(nn.Linear(6, 12), NORMS[norm](12), nn.GELU())
        self.after = nn.Sequential(nn.Linear(12, 8), NORMS[norm](8), nn.GELU(), nn.Dropout(dropout))
        self.head = nn.Linear(8, 3)
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3)
        self.validation_accuracy = torchmetrics.classification.MulticlassAccuracy(3)
        self.losses, self.logged, self.rates, self.sizes = [], [], [], []

    def forward(self, x):
        return self.head(self.after(_Fuse.apply(self.before(x), self.limits)))

    def loss(self, batch):
        logits = self(batch[0])
        return nn.functional.cross_entropy(logits, batch[1]), logits

    def on_train_batch_start(self, batch, batch_idx):
        self.limits.batch += 1

    def training_step(self, batch, batch_idx):
        loss, logits = self.loss(batch)
        self.accuracy.update(logits, batch[1])
        shared = self.trainer.world_size > 1  # then it is a collective, at this very place
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=shared)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.limits.check("forward", len(batch[0]))
        self.sizes.append(len(batch[0]))
        return {"loss": loss, "logits": logits.detach()}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        assert len(outputs["logits"]) == len(batch[0])
        self.logged.append(float(self.trainer.callback_metrics["loss_step"]))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def validation_step(self, batch, batch_idx):
        loss, logits = self.loss(batch)
        self.validation_accuracy.update(logits, batch[1])
        self.log("val/loss", loss)
        self.log("val/accuracy", self.validation_accuracy)
        self.limits.check("validation", len(batch[0]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def loader(samples=44, batch_size=10, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 6, generator=generator).to(dtype)
    y = torch.randint(0, 3, (samples,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def fit(*callbacks, limits=None, kind=Net, validates=True, data=None, ckpt_path=None, **options):
    """Fit in fp64; returns the module and the Trainer."""
    net_options = {key: options.pop(key) for key in ("norm", "dropout") if key in options}
    torch.manual_seed(1)
    net = kind(limits, **net_options)
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "precision": "64-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "gradient_clip_val": 0.5,
    }
    settings |= options | ({} if validates else {"limit_val_batches": 0})
    if "plugins" in options:
        del settings["precision"]
        train, validation = loader(dtype=torch.float32), loader(20, dtype=torch.float32)
    else:
        net = net.double()
        train, validation = loader(), loader(20)
    trainer = L.Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(net, data or train, validation, ckpt_path=ckpt_path)
    return net, trainer


def difference(one, other):
    """Largest difference of any weight, buffer, logged number, loss or rate of two runs."""
    (net, trainer), (net2, trainer2) = one, other
    assert trainer.global_step == trainer2.global_step
    assert net.rates == net2.rates
    state, state2 = net.state_dict(), net2.state_dict()
    assert state.keys() == state2.keys()
    worst = max(float((state[k].double() - state2[k].double()).abs().max()) for k in state)
    assert trainer.callback_metrics.keys() == trainer2.callback_metrics.keys()
    pairs = [
        (trainer.callback_metrics[k], trainer2.callback_metrics[k])
        for k in trainer.callback_metrics
    ]
    pairs += list(zip(net.losses + net.logged, net2.losses + net2.logged, strict=True))
    return max([worst, *(abs(float(a) - float(b)) for a, b in pairs)])


class FakeMeter:
    """A device of some units of memory, of which each sample of a part takes `per_sample`.

    Attributes:
        other: What another process holds.
        retries_at: Training steps in which the allocator gives back its cache.
    """

    def __init__(self, total=100, base=10, per_sample=5, other=0, retries_at=()):
        self.total, self.base, self.per_sample, self.other = total, base, per_sample, other
        self.retries_at = retries_at
        self.most = 0
        self.flushes = 0

    def take(self, samples):
        needed = self.base + self.per_sample * samples
        if needed > self.total - self.other:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.most = max(self.most, samples)

    def read(self):
        peak = self.base + self.per_sample * self.most
        return MemoryReading(
            total_bytes=self.total,
            free_bytes=self.total - self.other - peak,
            allocated_bytes=self.base,
            reserved_bytes=peak,
            peak_bytes=peak,
            peak_reserved_bytes=peak,
            limit_bytes=self.total,
        )

    def start_peak(self):
        self.most = 0

    def retries(self):
        return self.flushes

    def workspace_bytes(self):
        return 2

    def snapshot(self):
        return {"segments": [1, 2]}


class MeteredNet(Net):
    """Takes its memory from a `FakeMeter`, and plays what happens `at` its training batches."""

    meter = None
    at = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.parts = []

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        if self.limits.batch in self.meter.retries_at:
            self.meter.flushes += 3
        if self.at and self.limits.batch in self.at:
            self.at[self.limits.batch](self.meter)

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        if torch.is_grad_enabled():  # not in the comparison of a few samples
            self.meter.take(len(batch[0]))
            self.parts.append(len(batch[0]))
        return outputs


def metered(meter, at=None):
    """Return a class of networks on a device."""
    return type("Metered", (MeteredNet,), {"meter": meter, "at": at})
