import logging

from gpuopt.callbacks import EpochSummary


def test_each_epoch_is_one_line_with_its_metrics(make_trainer, module, loader, caplog):
    with caplog.at_level(logging.INFO, "gpuopt"):
        make_trainer(EpochSummary(), enable_checkpointing=False).fit(module, loader, loader)
    lines = [r.message for r in caplog.records if r.message.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("val/f1" in line for line in lines)


def test_the_forecast_is_measured_after_the_first_steps(make_trainer, module, loader, monkeypatch):
    ticks = iter(range(10_000))
    summary = EpochSummary()
    monkeypatch.setattr("gpuopt.callbacks.epoch_summary.time.monotonic", lambda: float(next(ticks)))
    make_trainer(summary, enable_checkpointing=False).fit(module, loader, loader)
    # One tick at the mark, one at each epoch's edges, one at the end: known to the step.
    assert summary.forecast_s is not None
    assert summary.forecast_s > 0


def test_a_run_too_short_for_a_forecast_has_none(make_trainer, module, loader):
    summary = EpochSummary()
    make_trainer(summary, enable_checkpointing=False, max_steps=4).fit(module, loader, loader)
    assert summary.forecast_s is None
