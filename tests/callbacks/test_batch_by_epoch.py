"""A schedule of the global batch, in a Trainer and module that know nothing of it."""

import logging
import math

import pytest
from lightning.pytorch.loggers import CSVLogger

from gpuopt.callbacks import GradientAccumulation, StepLog
from gpuopt.errors import InputError
from tests.callbacks.batches_of_any_size import bare, fit, make, weight_difference, windows

SIZES = (8,) * 7
SCHEDULE = {0: 16, 1: 24, 3: 56}


def epochs():
    return [windows(SIZES, SCHEDULE[e]) for e in (0, 1, 1, 3)]


@pytest.mark.parametrize("rule", ["none", "linear", "sqrt"])
@pytest.mark.parametrize("reference", [None, 32])
def test_weights_and_rates_are_those_of_a_loop_that_follows_it(rule, reference):
    if rule == "none" and reference:
        return
    callback = GradientAccumulation(
        1,
        global_batch_schedule=SCHEDULE,
        learning_rate_rule=rule,
        learning_rate_reference_batch=reference,
    )
    net, plain = make(), make()
    trainer = fit(net, callback, sizes=SIZES, max_epochs=4)
    ratios = [SCHEDULE[e] / (reference or 16) for e in (0, 1, 1, 3)]
    rates = {"none": [1.0] * 4, "linear": ratios, "sqrt": [math.sqrt(r) for r in ratios]}[rule]
    bare(plain, epochs(), sizes=SIZES, rates=rates)
    assert weight_difference(net, plain) < 1e-10
    assert trainer.global_step == 4 + 3 + 3 + 1


def test_a_change_is_told_everywhere(tmp_path, caplog):
    callback = GradientAccumulation(16, global_batch_schedule={2: 32}, learning_rate_rule="linear")
    with caplog.at_level(logging.INFO, "gpuopt"):
        logger = CSVLogger(tmp_path)
        fit(
            make(),
            callback,
            StepLog(),
            sizes=SIZES,
            max_epochs=3,
            logger=logger,
            log_every_n_steps=1,
        )
    line = "epoch 3: 32 samples per step instead of 16, learning rate times 2 (rule linear"
    assert caplog.text.count(line) == 1
    assert callback.summary()["changes"] == [
        {
            "epoch": 2,
            "step": 8,
            "global_batch_size": 32,
            "global_batch_size_before": 16,
            "learning_rate_factor": 2.0,
        }
    ]
    written = next(tmp_path.rglob("metrics.csv")).read_text("utf-8")
    assert "global_batch_size" in written
    assert "learning_rate_factor" in written


def test_a_second_fit_with_the_same_callback_is_like_the_first():
    callback = GradientAccumulation(16, global_batch_schedule={1: 56}, learning_rate_rule="linear")
    nets, summaries = (make(), make()), []
    for net in nets:
        fit(net, callback, sizes=SIZES, max_epochs=2)
        summaries.append(callback.summary()["changes"])
    assert weight_difference(*nets) == 0
    assert len(summaries[0]) == 1
    assert summaries[0] == summaries[1]


def test_a_rule_that_could_change_nothing_is_refused():
    with pytest.raises(InputError, match="learning_rate_rule=sqrt changes nothing"):
        GradientAccumulation(16, learning_rate_rule="sqrt")
    with pytest.raises(InputError, match="learning_rate_rule=root is not one of"):
        GradientAccumulation(16, learning_rate_rule="root")
