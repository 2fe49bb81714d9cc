import logging

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision

from gpuopt.callbacks import GradientAccumulation, ScalerSteps
from tests.callbacks.batches_of_any_size import Net, fit, make

SIZES = (8,) * 6


class Overflowing(Net):
    """Has infinite gradients in some steps, as fp16 does when a scale is too large."""

    overflows = ()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return loss * float("inf") if self.trainer.global_step in self.overflows else loss


def half(scale=1024.0):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def overflowing(*steps):
    torch.manual_seed(1)
    net = Overflowing()
    net.overflows = steps
    return net


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_skipped_steps_are_counted_and_told(tmp_path, caplog, accumulate):
    counting = ScalerSteps()
    callbacks = [counting, *([GradientAccumulation(16)] if accumulate == 2 else [])]
    with caplog.at_level(logging.INFO, "gpuopt"):
        trainer = fit(
            overflowing(0, 2),
            *callbacks,
            sizes=SIZES,
            plugins=[half()],
            logger=CSVLogger(tmp_path),
            log_every_n_steps=1,
        )
    steps = 2 * len(SIZES) // accumulate
    assert trainer.global_step == steps
    assert counting.summary() == {"steps": steps, "skipped_steps": 2, "scale": 256.0}
    assert f"2 of {steps} optimizer steps were skipped" in caplog.text
    text = next(tmp_path.rglob("metrics.csv")).read_text("utf-8")
    head, *rows = [line.split(",") for line in text.splitlines()]
    column = head.index("scaler/skipped_steps")
    assert [float(row[column]) for row in rows][:4] == [1.0, 1.0, 2.0, 2.0]


def test_nothing_is_said_when_nothing_was_skipped(caplog):
    counting = ScalerSteps()
    with caplog.at_level(logging.INFO, "gpuopt"):
        fit(overflowing(), counting, sizes=SIZES, plugins=[half()])
    assert counting.summary() == {"steps": 12, "skipped_steps": 0, "scale": 1024.0}
    assert "skipped" not in caplog.text


def test_without_a_scaler_there_is_nothing():
    counting = ScalerSteps()
    fit(make(), counting, sizes=SIZES)
    assert counting.summary() is None


def test_a_resumed_run_goes_on_counting():
    first, second = ScalerSteps(), ScalerSteps()
    first.load_state_dict({"steps": 7, "skipped_steps": 3})
    second.load_state_dict(first.state_dict())
    fit(overflowing(), second, sizes=SIZES, plugins=[half()], max_epochs=1)
    assert second.summary() == {"steps": 13, "skipped_steps": 3, "scale": 1024.0}
