import json
from dataclasses import replace

import pytest
import torch

from gpuopt.checks import benchmark, make_report
from gpuopt.errors import FaultError, InputError
from gpuopt.measure.device_rates import DeviceRates, HalfCheck
from gpuopt.session.model_trial import ModelTrial
from tests.checks.machines import CATALOGUE, EMPTY, MACHINE, preset, request, with_facts
from tests.checks.test_summary import shown

RATES = DeviceRates(
    matmul_tflops={"fp32": 6.35, "bf16": 20.0},
    convolution_tflops={"fp32": 5.0, "bf16": 15.0},
    memory_gb_per_s=324.0,
    pinned_gb_per_s=24.0,
    pageable_gb_per_s=6.0,
    checks={"bf16": HalfCheck(True, 0.002), "fp16": HalfCheck(False, float("nan"))},
)


@pytest.fixture
def on_a_card(monkeypatch):
    """Stand in for a card: what is asked of it is kept."""
    asked = []

    def rates(device, precisions):
        asked.append((str(device), precisions))
        return RATES

    def trial(name, size, **options):
        asked.append((name, size, options))
        return ModelTrial(options["train_batch_size"], 40.0, options["predict_batch_size"], 170.0)

    monkeypatch.setattr(benchmark, "measure_device_rates", rates)
    monkeypatch.setattr(benchmark, "try_model", trial)
    monkeypatch.setattr(benchmark, "refuse_unsupported", lambda *_: None)
    return asked


def test_rates_are_shares_of_the_cards_limits(on_a_card):
    found = make_report("benchmark", request(MACHINE))
    (device,) = found.devices
    values = found.as_dict()["devices"][0]
    card = CATALOGUE["rtx3060"]
    assert device.limits["matrix fp32"] == card.fp32_tflops
    assert device.limits["matrix bf16"] == device.limits["convolution bf16"] == card.tensor_tflops
    assert values["share_of_limit"]["memory"] == pytest.approx(324 / 360)
    assert values["share_of_limit"]["host to device, pinned"] == pytest.approx(24 / (16 * 1.969))
    eight_lanes = make_report("benchmark", request(with_facts(pcie_width=8)))
    assert eight_lanes.devices[0].limits["host to device, pinned"] == pytest.approx(8 * 1.969)
    text = shown(found)
    for words in ("6.35 TFLOP/s", "50%", "90%", "not finite: give precision=fp32"):
        assert words in text


def test_slow_pageable_memory_is_a_pitfall(on_a_card):
    (device,) = make_report("benchmark", request(MACHINE)).devices
    assert [pitfall.name for pitfall in device.pitfalls] == ["pageable loading"]


def test_the_model_runs_at_the_planned_batch(on_a_card):
    (device,) = make_report("benchmark", request(MACHINE)).devices
    assert on_a_card[0] == ("cuda:0", ["fp32", "tf32", "bf16", "fp16"])
    name, size, options = on_a_card[1]
    assert (name, size, options["precision"]) == ("test_vit", 64, "bf16")
    assert options["train_batch_size"] == device.planned.micro_batch_size
    assert str(options["device"]) == "cuda:0"


def test_an_older_card_is_not_asked_for_what_it_emulates(on_a_card):
    turing = replace(MACHINE.cards[0].device, name="Tesla T4", total_memory=15360 * 2**20)
    turing = replace(turing, major=7, minor=5)
    machine = replace(MACHINE, cards=(replace(MACHINE.cards[0], device=turing),))
    make_report("benchmark", request(machine))
    assert on_a_card[0][1] == ["fp32", "fp16"]


def test_a_card_that_is_not_here_cannot_be_measured():
    with pytest.raises(InputError, match="gpu=rtx4090 is not: leave gpu= out"):
        make_report("benchmark", request(EMPTY, gpu=preset("rtx4090")))


def test_a_card_that_this_build_cannot_drive_is_refused_before_a_kernel_fails(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_90"])
    with pytest.raises(InputError, match="cannot be driven by the installed PyTorch"):
        make_report("benchmark", request(MACHINE))


def test_memory_that_runs_out_is_one_line(on_a_card, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(benchmark, "measure_device_rates", full)
    with pytest.raises(FaultError, match="RTX 3060 12GB ran out of memory at report=benchmark"):
        make_report("benchmark", request(MACHINE))


def test_the_processors_are_really_measured(monkeypatch):
    from gpuopt.measure.device_rates import measure_device_rates

    def small(device, precisions):
        return measure_device_rates(device, precisions, work_ratio=0.05)

    monkeypatch.setattr(benchmark, "measure_device_rates", small)
    monkeypatch.setattr(benchmark, "_CPU_STEP_S", 0.01)
    found = make_report("benchmark", request(EMPTY, model={"name": "test_vit"}, image_size=32))
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    (device,) = values["devices"]
    assert (device["gpu"], device["evidence"]) == ("cpu", "measured")
    assert device["model"]["train_per_s"] > 0
    assert set(device["rates"]["matmul_tflops"]) == {"fp32", "bf16"}
    assert device["share_of_limit"] == {}  # no limit is known
    assert "n/a" in shown(found)
