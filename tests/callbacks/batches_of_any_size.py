"""A network in fp64, loaders that yield batches of given sizes, and the bare loop to compare with.

The bare loop knows no accumulation: every step takes all samples of its window as one batch.
"""

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
# Windows of 24: of equal batches, of other sizes, and one that the epoch's end leaves incomplete.
SIZES = (8, 8, 8, 12, 12, 5, 7, 9, 3, 10, 4)
WINDOW = 24


class Net(L.LightningModule):
    """A network without anything that depends on the batch; keeps the gradients of its steps."""

    def __init__(self, weighted=False, optimizer=torch.optim.AdamW):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 3))
        self.class_weights = CLASS_WEIGHTS if weighted else None
        self.kind = optimizer
        self.gradients, self.rates, self.losses = [], [], []

    def loss(self, batch):
        weights = None if self.class_weights is None else self.class_weights.to(batch[0].dtype)
        logits = self.layers(batch[0])
        return nn.functional.cross_entropy(logits, batch[1], weights)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer):
        self.keep()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if outputs:
            self.losses.append(float(outputs["loss"]))

    def keep(self):
        self.gradients.append([p.grad.clone() for p in self.parameters()])

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def make(weighted=False, dtype=torch.float64, **options):
    torch.manual_seed(1)
    return Net(weighted, **options).to(dtype)


def data(samples, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 6, generator=generator).to(dtype)
    return TensorDataset(x, torch.randint(0, 3, (samples,), generator=generator))


def loader(sizes=SIZES, dtype=torch.float64):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    rows = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    return DataLoader(data(sum(sizes), dtype), batch_sampler=rows)


def fit(net, *callbacks, sizes=SIZES, batches=None, **options):
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(callbacks=list(callbacks), **(settings | options))
    if batches is None:
        batches = loader(sizes, next(net.parameters()).dtype)
    trainer.fit(net, batches)
    return trainer


def windows(sizes=SIZES, window=WINDOW):
    """Cut an epoch into the samples of its steps: a batch that fills a window ends it."""
    found, first, last = [], 0, 0
    for size in sizes:
        last += size
        if last - first >= window:
            found.append(slice(first, last))
            first = last
    return found + ([slice(first, last)] if last > first else [])


def bare(net, spans_of_epochs, sizes=SIZES, clip=None, rates=None):
    """Train on whole windows; `rates` multiplies the learning rate by epoch."""
    (optimizer,), (schedule,) = net.configure_optimizers()
    schedule = schedule["scheduler"]
    x, y = data(sum(sizes), next(net.parameters()).dtype).tensors
    for epoch, spans in enumerate(spans_of_epochs):
        for span in spans:
            optimizer.zero_grad()
            net.loss((x[span], y[span])).backward()
            net.keep()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            own = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = own * (rates[epoch] if rates else 1.0)
            net.rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            optimizer.param_groups[0]["lr"] = own
            schedule.step()
    return net


def gradient_difference(one, other):
    """Largest difference of any gradient of any step / the largest gradient of that step."""
    assert len(one.gradients) == len(other.gradients)
    worst = 0.0
    for mine, theirs in zip(one.gradients, other.gradients, strict=True):
        largest = max(float(g.abs().max()) for g in theirs)
        gaps = [float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True)]
        worst = max(worst, max(gaps) / largest)
    return worst


def weight_difference(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
