"""A LightningModule and Trainer that know nothing of gpuopt: the callbacks must work in them."""

from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gpuopt.callbacks import compile_chooser as chooser_module
from gpuopt.callbacks import compile_trial as trial_module
from gpuopt.measure.compile_choice import CompileChoice, CompileFailedError
from tests.callbacks.compile_modules import CALLS, Stub, broken, noting, wrong


class Numbers(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(8, generator=generator), torch.tensor(index % 3)


class Plain(L.LightningModule):
    """Somebody's own module: batch norm, dropout, its own optimizer and schedule."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)
        )

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        score = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val/f1", score)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Plain()


@pytest.fixture
def loader():
    return DataLoader(Numbers(), batch_size=4)


@pytest.fixture
def make_trainer(tmp_path):
    def make(*callbacks, **options):
        settings = {
            "max_epochs": 3,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
        }
        return L.Trainer(callbacks=list(callbacks), **(settings | options))

    return make


@pytest.fixture
def process(monkeypatch):
    """No process is started; the first call of all tests registers the compilers."""
    torch.compiler.reset()
    for backend in (noting, wrong, broken):
        if backend.__name__ not in torch.compiler.list_backends(()):
            torch._dynamo.register_backend(backend)
    CALLS.clear()
    Stub.started = []
    monkeypatch.setattr(trial_module, "CompilingProcess", Stub)
    yield Stub
    torch.compiler.reset()


@pytest.fixture
def take(monkeypatch):
    """Choose a mode whatever the times are, if it can be made; notes what it was asked with."""
    asked = []

    def install(mode):
        def choose(step_eager, make_compiled, steps_left, **options):
            asked.append(SimpleNamespace(steps_left=steps_left, **options))
            step_eager()
            try:
                if mode != "off":
                    make_compiled(mode, 60.0)()
            except CompileFailedError as error:
                return CompileChoice("off", f"{mode}: {error}", steps_left, 1.0)
            return CompileChoice(mode, "as the test wants it", steps_left, 1.0)

        monkeypatch.setattr(chooser_module, "choose_compile_mode", choose)
        return asked

    return install
