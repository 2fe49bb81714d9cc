import errno
import os

import lightning.pytorch as L
import pytest
import torch

from gpuopt.callbacks import DurableCheckpoint, Preemption
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import Sidecar
from gpuopt.storage import checkpoint as storage
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.storage.checkpoint_io import DurableCheckpointIO


@pytest.fixture
def fit(make_trainer, module, loader, tmp_path):
    def run(*callbacks, module=module, **options):
        checkpoint = options.pop("checkpoint", None) or DurableCheckpoint(tmp_path / "c")
        trainer = make_trainer(*callbacks, checkpoint, plugins=[DurableCheckpointIO()], **options)
        trainer.fit(module, loader, loader)
        return checkpoint

    return run


class SavedSteps(L.Callback):
    """Notes at which steps a checkpoint was written."""

    def __init__(self):
        self.steps = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        progress = trainer.fit_loop.epoch_loop.batch_progress
        self.steps.append((trainer.global_step, progress.current.ready))


def test_it_keeps_last_previous_and_best(fit, tmp_path):
    checkpoint = fit()
    assert read_checkpoint(checkpoint.last_path)["epoch"] == 2
    assert read_checkpoint(tmp_path / "c/previous.ckpt")["epoch"] == 1
    assert read_checkpoint(checkpoint.best_path)["epoch"] == checkpoint.best_epoch
    for path in (tmp_path / "c").glob("*.ckpt"):
        assert Sidecar(path).match() is not None


def test_every_n_steps_never_saves_inside_a_window_or_on_the_last_batch(fit, tmp_path):
    saved = SavedSteps()
    fit(
        saved,
        checkpoint=DurableCheckpoint(tmp_path / "c", every_n_steps=1, every_n_seconds=None),
        accumulate_grad_batches=2,
        max_epochs=1,
    )
    assert saved.steps == [(1, 2), (2, 4), (3, 6)]  # the last one is the epoch's own


def test_nothing_is_saved_in_between_when_it_is_not_asked_for(fit, tmp_path):
    saved = SavedSteps()
    fit(saved, checkpoint=DurableCheckpoint(tmp_path / "c", every_n_seconds=None))
    assert saved.steps == [(6, 6), (12, 6), (18, 6)]


def test_seconds_count_from_the_last_save(fit, tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    saved = SavedSteps()
    fit(saved, checkpoint=DurableCheckpoint(tmp_path / "c", every_n_seconds=0.5), max_epochs=1)
    assert len(saved.steps) == 6


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 2)])
def test_best_follows_the_mode(fit, tmp_path, module, mode, best):
    scores = iter([0.5, 0.9, 0.1])
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: module.log("val/f1", next(scores))
    checkpoint = fit(checkpoint=DurableCheckpoint(tmp_path / "c", mode=mode))
    assert checkpoint.best_epoch == best
    assert read_checkpoint(checkpoint.best_path)["epoch"] == best


def test_a_score_that_is_no_number_is_never_best(fit, module):
    scores = iter([0.5, float("nan"), float("nan")])
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: module.log("val/f1", next(scores))
    assert fit().best_epoch == 0


def test_while_nothing_tells_the_best_epoch_it_is_the_newest(fit, tmp_path, caplog):
    found = fit(checkpoint=DurableCheckpoint(str(tmp_path / "c"), monitor="val/accuracy"))
    assert read_checkpoint(found.best_path)["epoch"] == 2
    assert (found.best_score, found.best_epoch) == (None, None)
    told = "val/accuracy was never logged as a number, so best.ckpt holds the newest epoch"
    assert caplog.text.count(f"{told}; logged were: val/f1") == 1


def test_a_best_checkpoint_that_was_lost_is_replaced_by_the_next_epoch(fit, tmp_path):
    class Loses(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                checkpoint.best_score = float("inf")  # of the epoch that is lost
                checkpoint.best_path.unlink()

    checkpoint = DurableCheckpoint(tmp_path / "c")
    fit(Loses(), checkpoint=checkpoint)
    assert read_checkpoint(checkpoint.best_path)["epoch"] == 2


def test_what_is_measured_late_is_best_from_then_on(fit, module, caplog):
    scores = iter([float("nan"), 0.5, 0.4])
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: module.log("val/f1", next(scores))
    found = fit()
    assert read_checkpoint(found.best_path)["epoch"] == found.best_epoch == 1
    assert "never logged" not in caplog.text


@pytest.mark.filterwarnings("ignore:.*configured with multiple")
@pytest.mark.parametrize("is_first", [True, False])
def test_lightning_finds_the_best_weights(make_trainer, module, loader, tmp_path, is_first):
    checkpoint = DurableCheckpoint(tmp_path / "c")
    both = [checkpoint, Preemption(checkpoint)]
    trainer = make_trainer(*(both if is_first else both[::-1]), plugins=[DurableCheckpointIO()])
    assert checkpoint.best_model_path == ""
    trainer.fit(module, loader, loader)
    trainer.validate(module, loader, ckpt_path="best")
    assert trainer.ckpt_path == str(checkpoint.best_path)


def test_a_resumed_run_remembers_the_best_score(fit, tmp_path):
    first = fit(max_epochs=1)
    again = DurableCheckpoint(tmp_path / "c")
    again.load_state_dict(read_checkpoint(first.last_path)["callbacks"]["DurableCheckpoint"])
    assert (again.best_score, again.best_epoch) == (first.best_score, 0)


def test_a_full_disk_costs_a_checkpoint_not_the_training(fit, tmp_path, monkeypatch, caplog):
    original, calls = storage.atomic_write, iter(range(100))

    def sometimes_full(path, mode="wb"):
        if path.name == ".last.ckpt.new" and next(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, mode)

    monkeypatch.setattr(storage, "atomic_write", sometimes_full)
    checkpoint = fit()
    assert "No space left" in caplog.text
    assert read_checkpoint(checkpoint.last_path)["epoch"] == 2
    assert read_checkpoint(tmp_path / "c/previous.ckpt")["epoch"] == 0


def test_a_best_epoch_that_could_not_be_saved_is_not_remembered(fit, module, monkeypatch, tmp_path):
    scores = iter([0.5, 0.9, 0.7])
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: module.log("val/f1", next(scores))
    original, calls = storage.atomic_write, iter(range(100))

    def full_once(path, mode="wb"):
        if path.name == ".last.ckpt.new" and next(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, mode)

    monkeypatch.setattr(storage, "atomic_write", full_once)
    checkpoint = fit()
    assert (checkpoint.best_epoch, checkpoint.best_score) == (2, pytest.approx(0.7))
    assert read_checkpoint(checkpoint.best_path)["epoch"] == 2


def test_spoilt_weights_stop_the_run_and_are_not_saved(fit, module, tmp_path):
    class Spoil(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                next(pl_module.parameters()).data.fill_(float("inf"))

    with pytest.raises(FaultError, match="not finite"):
        fit(Spoil())
    saved = read_checkpoint(tmp_path / "c/last.ckpt")
    assert saved["epoch"] == 0
    assert all(torch.isfinite(v).all() for v in saved["state_dict"].values())


def test_another_mode_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither max nor min"):
        DurableCheckpoint(tmp_path, mode="best")
