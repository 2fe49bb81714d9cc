import logging

import lightning.pytorch as L
import pytest

from gpuopt.callbacks import EpochSummary


def test_each_epoch_is_one_line_with_its_metrics(make_trainer, module, loader, caplog):
    with caplog.at_level(logging.INFO, "gpuopt"):
        make_trainer(EpochSummary(), enable_checkpointing=False).fit(module, loader, loader)
    lines = [r.message for r in caplog.records if r.message.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("val/f1" in line for line in lines)


@pytest.mark.parametrize(("options", "left"), [({}, 24 - 13), ({"max_steps": 16}, 3)])
def test_the_forecast_covers_what_is_left(make_trainer, module, loader, monkeypatch, options, left):
    """Each batch takes two seconds of a clock that only batches move."""
    now = [0.0]

    class Work(L.Callback):
        def on_train_batch_start(self, *_):
            now[0] += 2.0

    summary = EpochSummary()
    monkeypatch.setattr("gpuopt.callbacks.epoch_summary.time.monotonic", lambda: now[0])
    trainer = make_trainer(Work(), summary, enable_checkpointing=False, max_epochs=4, **options)
    trainer.fit(module, loader, loader)
    assert summary.forecast_s == pytest.approx(2.0 * left)


def test_a_run_too_short_for_a_forecast_has_none(make_trainer, module, loader):
    summary = EpochSummary()
    make_trainer(summary, enable_checkpointing=False, max_steps=4).fit(module, loader, loader)
    assert summary.forecast_s is None
