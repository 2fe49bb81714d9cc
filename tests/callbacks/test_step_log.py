import csv
import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from gpuopt.callbacks import LossBar, StepLog
from gpuopt.callbacks import step_log as module_of_step_log
from tests.callbacks.test_gpu_stats import Collected


class Losses(L.Callback):
    """Keeps the loss of every micro-batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(float(outputs["loss"]))


def entries(logger):
    return {step: metrics for step, metrics in logger.metrics if "lr/0" in metrics}


def test_every_step_is_logged_under_its_number(make_trainer, module, loader):
    logger, losses, log = Collected(), Losses(), StepLog()
    options = {"logger": logger, "max_epochs": 2, "enable_checkpointing": False}
    make_trainer(losses, log, **options).fit(module, loader, loader)
    logged = entries(logger)
    assert list(logged) == list(range(12))
    assert [logged[step]["train/loss_step"] for step in logged] == losses.seen
    assert log.loss == losses.seen[-1]
    rates = [logged[step]["lr/0"] for step in logged]
    assert rates == pytest.approx([0.01] * 6 + [0.009] * 6)  # the module decays by epoch


def test_the_loss_of_a_window_is_the_mean_of_its_batches(make_trainer, module, loader):
    logger, losses = Collected(), Losses()
    options = {"accumulate_grad_batches": 3, "log_every_n_steps": 2, "max_epochs": 2}
    trainer = make_trainer(losses, StepLog(), logger=logger, enable_checkpointing=False, **options)
    trainer.fit(module, loader, loader)
    logged = entries(logger)
    assert list(logged) == [1, 3]
    # Lightning has divided each by three.
    sums = [sum(losses.seen[3:6]), sum(losses.seen[9:12])]
    assert [logged[step]["train/loss_step"] for step in logged] == pytest.approx(sums)


class Slow:
    """A copy that arrives when two more are on their way, unless somebody waits."""

    sent = waited = 0

    def __init__(self, value):
        Slow.sent += 1
        self.number, self.arrives_at = float(value), Slow.sent + 2

    def is_ready(self):
        return Slow.sent >= self.arrives_at

    def value(self):
        Slow.waited += not self.is_ready()
        return self.number


def test_nobody_waits_before_the_epoch_ends(make_trainer, module, loader, monkeypatch):
    monkeypatch.setattr(module_of_step_log, "HostCopy", Slow)
    monkeypatch.setattr(Slow, "waited", 0)
    logger, losses = Collected(), Losses()
    trainer = make_trainer(losses, StepLog(), logger=logger, enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    assert [m["train/loss_step"] for m in entries(logger).values()] == losses.seen
    assert Slow.waited == 2 * 3  # what was under way when each of three epochs ended


def test_an_interrupted_run_keeps_its_last_losses(make_trainer, module, loader, monkeypatch):
    monkeypatch.setattr(module_of_step_log, "HostCopy", Slow)

    class Stop(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 4:
                raise ValueError

    logger = Collected()
    with pytest.raises(ValueError, match=r"^$"):
        make_trainer(StepLog(), Stop(), logger=logger, enable_checkpointing=False).fit(
            module, loader, loader
        )
    assert list(entries(logger)) == [0, 1, 2, 3]


def test_a_failed_device_does_not_hide_the_first_error(make_trainer, module, loader, monkeypatch):
    class Dead(Slow):
        def is_ready(self):
            return False

        def value(self):
            raise RuntimeError("CUDA error")

    monkeypatch.setattr(module_of_step_log, "HostCopy", Dead)

    class Stop(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 4:
                raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        make_trainer(StepLog(), Stop(), logger=Collected(), enable_checkpointing=False).fit(
            module, loader, loader
        )


def test_a_full_disk_does_not_hide_the_first_error(make_trainer, module, loader, monkeypatch):
    class Late(Slow):
        def is_ready(self):
            return False

    class Full(Collected):
        def log_metrics(self, metrics, step=None):
            raise OSError(28, "No space left on device")

    class Stop(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 4:
                raise ValueError("first")

    monkeypatch.setattr(module_of_step_log, "HostCopy", Late)
    with pytest.raises(ValueError, match="first"):
        make_trainer(StepLog(), Stop(), logger=Full(), enable_checkpointing=False).fit(
            module, loader, loader
        )


@pytest.fixture
def two_optimizers(module):
    class Two(type(module)):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            first = [{"params": [self.net[0].weight], "name": "head", "lr": 0.5}]
            return [torch.optim.SGD(first), torch.optim.AdamW([self.net[0].bias], 0.25)]

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.step()

    return Two()


def test_several_optimizers_have_names_and_count_as_one_step(make_trainer, two_optimizers, loader):
    logger = Collected()
    options = {"logger": logger, "max_epochs": 1, "log_every_n_steps": 2}
    trainer = make_trainer(StepLog(), enable_checkpointing=False, **options)
    trainer.fit(two_optimizers, loader, loader)
    assert trainer.global_step == 2 * 6
    rates = {"lr/SGD0/head": 0.5, "lr/AdamW1/0": 0.25}
    logged = {step: found for step, found in logger.metrics if "lr/SGD0/head" in found}
    assert logged == dict.fromkeys((1, 3, 5), rates)


def test_a_batch_that_is_skipped_repeats_nothing(make_trainer, module, loader):
    """A loader may yield None, of which Lightning tells callbacks the end but not the start."""

    def with_gaps():
        for batch in loader:
            yield batch
            yield None

    class Gaps:
        def __iter__(self):
            return with_gaps()

        def __len__(self):
            return 12

    logger, losses = Collected(), []
    original = module.training_step
    module.training_step = lambda *arguments: losses.append(original(*arguments)) or losses[-1]
    options = {"logger": logger, "max_epochs": 1, "enable_checkpointing": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*yielded None.*")
        make_trainer(StepLog(), **options).fit(module, Gaps(), loader)
    written = [m["train/loss_step"] for _, m in logger.metrics if "train/loss_step" in m]
    assert written == pytest.approx([float(loss.detach()) for loss in losses])


def test_a_csv_logger_holds_the_steps(make_trainer, module, loader, tmp_path):
    logger = CSVLogger(tmp_path, name=None, version="csv")
    make_trainer(StepLog(), logger=logger, max_epochs=1, enable_checkpointing=False).fit(
        module, loader, loader
    )
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["train/loss_step"]]
    assert steps == list("012345")


def test_the_bar_shows_the_newest_loss(make_trainer, module, loader):
    log = StepLog()
    bar = LossBar(log)
    trainer = make_trainer(log, bar, enable_progress_bar=True, enable_checkpointing=False)
    assert "train/loss" not in bar.get_metrics(trainer, module)
    trainer.fit(module, loader, loader)
    assert bar.get_metrics(trainer, module)["train/loss"] == log.loss
