import logging

import lightning.pytorch as L
import pytest
from torch.utils.data import DataLoader, IterableDataset

from gpuopt.callbacks import EpochSummary


class Stream(IterableDataset):
    """Samples whose number nobody knows before."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[row] for row in range(len(self.dataset)))


def epoch_lines(caplog):
    return [r.message for r in caplog.records if r.message.startswith("epoch ")]


def test_each_epoch_is_one_line_with_its_metrics(make_trainer, module, loader, caplog):
    with caplog.at_level(logging.INFO, "gpuopt"):
        make_trainer(EpochSummary(), enable_checkpointing=False).fit(module, loader, loader)
    lines = epoch_lines(caplog)
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("val/f1" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"max_epochs": 4}, 24 - 13),
        ({"max_epochs": 4, "max_steps": 16}, 3),
        ({"max_epochs": -1, "max_steps": 20}, 7),
    ],
)
def test_the_forecast_covers_what_is_left(make_trainer, module, loader, monkeypatch, options, left):
    """Each batch takes two seconds of a clock that only batches move."""
    now = [0.0]

    class Work(L.Callback):
        def on_train_batch_start(self, *_):
            now[0] += 2.0

    summary = EpochSummary()
    monkeypatch.setattr("gpuopt.callbacks.epoch_summary.time.monotonic", lambda: now[0])
    trainer = make_trainer(Work(), summary, enable_checkpointing=False, **options)
    trainer.fit(module, loader, loader)
    assert summary.forecast_s == pytest.approx(2.0 * left)


def test_a_run_too_short_for_a_forecast_has_none(make_trainer, module, loader):
    summary = EpochSummary()
    make_trainer(summary, enable_checkpointing=False, max_steps=4).fit(module, loader, loader)
    assert summary.forecast_s is None


def test_a_second_fit_is_forecast_anew(make_trainer, module, loader):
    summary = EpochSummary()
    make_trainer(summary, enable_checkpointing=False).fit(module, loader, loader)
    assert summary.forecast_s is not None
    make_trainer(summary, enable_checkpointing=False, max_epochs=1).fit(module, loader, loader)
    assert summary.forecast_s is None


def test_data_of_unknown_length_is_trained_without_a_forecast(make_trainer, module, loader):
    summary = EpochSummary()
    stream = DataLoader(Stream(loader.dataset), batch_size=2)
    make_trainer(summary, enable_checkpointing=False).fit(module, stream, loader)
    assert summary.forecast_s is None


def test_without_a_limit_of_epochs_none_is_named(make_trainer, module, loader, caplog):
    options = {"max_epochs": -1, "max_steps": 8, "enable_checkpointing": False}
    with caplog.at_level(logging.INFO, "gpuopt"):
        make_trainer(EpochSummary(), **options).fit(module, loader, loader)
    assert [line.split()[1] for line in epoch_lines(caplog)] == ["1", "2"]
