"""Compilers that compile nothing, and what the callback that chooses among them is tried on."""

from typing import ClassVar

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from gpuopt.callbacks import CompileChooser
from tests.callbacks.finder_modules import FakeMeter, Rows, Unknown
from tests.callbacks.test_batch_size_finder import SETTINGS

CALLS = []


def noting(graph, examples, **options):
    """Compile nothing, and note when the result is run, and by how many samples."""
    CALLS.append(("compile", len(examples[-1])))

    def run(*args):
        CALLS.append("run")
        return graph(*args)

    return run


def wrong(graph, examples, **options):
    """Compile into something that gives other logits."""
    return lambda *args: tuple(out * 1.01 + 0.01 * out.flip(-1) for out in graph(*args))


def broken(graph, examples, **options):
    raise ValueError("this compiler has no idea\nand much more to say")


class Stub:
    """A process that compiles at once, or never."""

    started: ClassVar[list] = []

    def __init__(self, task, mode):
        self.task, self.mode, self.ended = task, mode, False
        self.is_done, self.words = True, None
        Stub.started.append(self)

    def fault(self):
        return self.words

    def end(self):
        self.ended = True


class Plain(Unknown):
    """Without dropout, so that compiled steps are those of eager ones to the bit."""

    def __init__(self, meter=None):
        super().__init__(meter or FakeMeter(10**6))
        self.net[3] = nn.Identity()


def fit(module, *callbacks, data=None, ckpt_path=None, **options):
    torch.manual_seed(3)
    trainer = L.Trainer(
        callbacks=list(callbacks), **(SETTINGS | {"gradient_clip_val": 0.5} | options)
    )
    if data is None:
        loaders = (DataLoader(Rows(), 8, shuffle=True), DataLoader(Rows(), 8))
        trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    else:
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    module.random_numbers = torch.get_rng_state()
    return module, trainer


def built(kind=Plain):
    torch.manual_seed(5)
    return kind() if kind is Plain else kind(FakeMeter(10**6))


def chooser(tmp_path, backend="noting", **options):
    return CompileChooser("net", backend=backend, cache_dir=tmp_path, **options)


class Separable(Plain):
    """Takes a batch in parts as it takes the whole."""

    def training_step(self, batch, batch_idx):
        self.meter[0].take(len(batch[0]))
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
