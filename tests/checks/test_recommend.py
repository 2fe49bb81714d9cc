import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from gpuopt.checks import make_report
from gpuopt.checks.planned_speed import PlannedSpeed
from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from gpuopt.hardware import AbsentGpu
from gpuopt.measure import Interval
from gpuopt.tta import TestTimeAugmentation
from tests.checks.machines import EMPTY, HOST, MACHINE, TINY_MODE, preset, request, with_card

SMALL_MODE = replace(TINY_MODE, name="lowend_highperf", pin_memory=False, max_epochs=10)
MODES = {"highperf": lambda: TINY_MODE, "lowend_highperf": lambda: SMALL_MODE}
TURNS = [{}, {"rotate": 90}, {"rotate": 180}]
# 15 epochs take 40 minutes, 10 take 27.
LONG = {"gpu": preset("rtx3060", tensor_tflops=0.001, fp32_tflops=0.001), "train_images": 55_000}
POLICIES = [TestTimeAugmentation(), TestTimeAugmentation("turns", TURNS)]


@pytest.fixture(autouse=True)
def _quick_reference(monkeypatch):
    """The reference model takes a second to follow; what it comes to is tested beside it."""
    found = PlannedSpeed("r", 384, "bf16", 24, 24, "none", Interval(35.4, 29, 45), None)
    monkeypatch.setattr("gpuopt.checks.recommendation.reference_speed", lambda *_: found)


def ask(machine=EMPTY, **changes):
    changes = {"modes": MODES, "policies": POLICIES, "gpu": preset("rtx3060"), **changes}
    return make_report("recommend", request(machine, image_size="auto", **changes))


def settings(device):
    return {choice.key: choice for choice in device.choices}


def shown(found):
    console = Console(width=100, file=io.StringIO())
    console.print(found)
    return console.file.getvalue()


def test_a_card_that_no_build_drives_is_told_of_though_it_is_not_here():
    (device,) = ask(gpu=preset("v100")).devices
    assert any("the V100 16GB is sm_70" in note for note in device.notes)


def test_every_line_has_its_evidence_and_its_reason():
    (device,) = ask(words=["gpu=rtx3060"]).devices
    assert device.tier.name == "budget"
    found = settings(device)
    assert set(found) == {
        *("mode", "model.name", "image_size", "precision"),
        *("micro_batch_size", "num_workers", "tta"),
    }
    assert all(choice.reason for choice in found.values())
    assert found["mode"].value == "highperf"
    assert "1000 images x 15 epochs" in found["mode"].reason
    assert found["tta"].value == "turns"  # the most views that stay short
    assert device.training_minutes.low < device.training_minutes.value
    assert device.prediction_minutes is not None
    text = shown(ask(words=["gpu=rtx3060"]))
    assert max(map(len, text.splitlines())) <= 100
    assert "gpuopt train mode=highperf gpu=rtx3060 tta=turns" in text


def test_the_guides_rank_is_named_where_it_differs_and_only_there():
    (device,) = ask().devices
    assert device.guide == (
        "the guide calls it low-end by its name; it has the memory and the speed of budget"
    )
    (lower,) = ask(gpu=preset("rtx4090")).devices  # with the planted speed of a small one
    assert "high-end by its name; it has not the speed of more than budget" in lower.guide
    (same,) = ask(gpu=preset("rtx4070")).devices
    assert same.guide == ""
    (none,) = ask(gpu=preset("h100")).devices
    assert none.guide == ""


def test_a_mode_that_takes_too_long_is_passed_and_says_so():
    (device,) = ask(**LONG).devices
    found = settings(device)
    assert found["mode"].value == "lowend_highperf"
    assert "highperf would take" in found["mode"].reason


def test_pageable_loading_of_a_mode_is_put_right():
    (device,) = ask(**LONG).devices
    assert "pin_memory=true" in device.command
    assert any("pageable loading" in note for note in device.notes)
    (quick,) = ask().devices
    assert "pin_memory=true" not in quick.command


def test_a_model_that_is_asked_for_is_kept():
    words = ["model=timm", "model.name=test_resnet", "gpu=rtx3060"]
    (device,) = ask(words=words, model={"name": "test_resnet", "checkpointing": "none"}).devices
    found = settings(device)
    assert "mode" not in found
    assert (found["model.name"].value, found["model.name"].evidence) == ("test_resnet", "given")
    assert device.command[0] == "mode=highperf"
    assert f"image_size={found['image_size'].value}" in device.command


def test_a_card_too_small_for_every_mode_is_refused():
    with pytest.raises(InputError, match="not one sample of test_vit at 64 px fits"):
        ask(gpu=AbsentGpu(memory_gib=0.5))


def test_unknown_speed_leaves_minutes_out():
    (device,) = ask(gpu=AbsentGpu(memory_gib=6)).devices
    assert (device.training_minutes, device.prediction_minutes) == (None, None)
    assert "speed unknown" in settings(device)["mode"].reason


def test_pitfalls_of_this_machine_are_beside_it_and_cards_of_a_kind_share_an_answer():
    hot = with_card(throttle_reasons=["hardware_thermal"])
    both = replace(hot, cards=(*hot.cards, *MACHINE.cards), cards_of_driver=2)
    (device,) = ask(both, gpu=AbsentGpu()).devices
    assert any(note.startswith("throttling: ") for note in device.notes)
    assert any("trainer.devices=2" in note for note in device.notes)


def test_the_processors_have_an_answer(monkeypatch):
    from gpuopt.measure.roofline import Rates

    monkeypatch.setattr("gpuopt.checks.planned_speed.cpu_rates", lambda: Rates(1e12, 1e11))
    (device,) = ask(replace(EMPTY, host=HOST), gpu=AbsentGpu()).devices
    found = settings(device)
    assert (found["micro_batch_size"].value, found["micro_batch_size"].evidence) == (32, "table")
    assert found["num_workers"].value == 0
    assert device.prediction_minutes is not None


def test_a_long_command_is_cut_into_lines_that_can_be_copied():
    words = [f"model.drop_rate=0.{'1' * length}" for length in (30, 31, 32)]
    text = shown(ask(words=["gpu=rtx3060", *words, "model=timm"], model=TINY_MODE.model))
    lines = text[text.index("gpuopt train") :].splitlines()
    assert len(lines) > 1
    assert all(line.rstrip().endswith("\\") for line in lines[:-1] if line.strip())


def test_json_holds_the_same():
    values = json.loads(json.dumps(ask().as_dict(), allow_nan=False))
    (device,) = values["devices"]
    assert device["tier"]["name"] == "budget"
    assert device["command"][:3] == ["gpuopt", "train", "mode=highperf"]
    assert {choice["key"] for choice in device["choices"]} >= {"mode", "micro_batch_size", "tta"}


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("lowend_highperf", ["gpu=gtx1660ti"]),
        ("highperf", ["model=timm", "model.name=test_vit", "gpu=rtx3060"]),
        ("highperf", ["gpu.memory_limit_mib=6144"]),
    ],
)
def test_training_takes_the_command(mode, words):
    policies = [TestTimeAugmentation("essential", TURNS)]
    (device,) = ask(
        modes={mode: MODES[mode], "highperf": MODES[mode]}, words=words, policies=policies
    ).devices
    composed = compose_settings("train", list(device.command))
    assert composed["tta"]["name"] == "essential"
    if "model.name=test_vit" in words:
        assert composed["model"]["name"] == "test_vit"  # the command line wins over the mode
        assert composed["image_size"] == settings(device)["image_size"].value
