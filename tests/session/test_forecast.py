from dataclasses import replace

import pytest

from gpuopt.hardware import Gpu, load_catalogue
from gpuopt.schema import CONF_DIR
from gpuopt.session.forecast import forecast_training_s, samples_seen
from gpuopt.session.plan import Plan

CARD = load_catalogue(CONF_DIR / "gpu")["rtx3060"]
PLAN = Plan("cuda", CARD, "bf16", 160, 64, 64, 1, ())


def test_twice_the_samples_take_twice_as_long():
    one, two = (forecast_training_s(PLAN, "test_vit", count) for count in (1000, 2000))
    assert one is not None
    assert two == pytest.approx(2 * one)


def test_the_operations_of_a_model_are_counted_once_for_all(tmp_path, monkeypatch):
    one = forecast_training_s(PLAN, "test_vit", 1000, cache_dir=str(tmp_path))
    monkeypatch.setattr("gpuopt.measure.roofline.forward_flops", lambda *_: pytest.fail("counted"))
    assert forecast_training_s(PLAN, "test_vit", 1000, cache_dir=str(tmp_path)) == one


def test_smaller_micro_batches_and_slower_cards_take_longer():
    one = forecast_training_s(PLAN, "test_vit", 1000)
    small = forecast_training_s(replace(PLAN, micro_batch_size=8), "test_vit", 1000)
    slow = replace(CARD, memory_bandwidth_gb_per_s=1.0)
    slower = forecast_training_s(replace(PLAN, gpu=slow), "test_vit", 1000)
    assert one < small
    assert one < slower


def test_nothing_is_said_about_unknown_cards_and_models():
    assert forecast_training_s(replace(PLAN, gpu=Gpu(name="x")), "test_vit", 10) is None
    assert forecast_training_s(PLAN, "no_such_model", 10) is None


def test_samples_are_counted_in_full_steps():
    plan = replace(PLAN, global_batch_size=30, global_batch_changes={2: 40})
    assert samples_seen(plan, 100, 3, steps=4 + 4 + 3) == 120 + 120 + 120
    assert samples_seen(PLAN, 100, 3, steps=6) == 6 * 64
    assert samples_seen(PLAN, 100, 3, steps=4) == 4 * 64  # trainer.max_steps


def test_processors_are_measured():
    plan = replace(PLAN, accelerator="cpu", precision="fp32")
    assert forecast_training_s(plan, "test_vit", 1000) > 0
