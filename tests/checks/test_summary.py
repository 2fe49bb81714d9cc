import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from gpuopt.checks import make_report
from gpuopt.checks.planned_speed import plan_speed
from gpuopt.errors import InputError
from gpuopt.hardware import AbsentGpu
from gpuopt.memory import MemorySetup, predict_memory
from tests.checks.machines import CATALOGUE, EMPTY, MACHINE, preset, request, with_card


def shown(found):
    console = Console(width=100, file=io.StringIO())
    console.print(found)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    return text


def ask(machine=EMPTY, **changes):
    return make_report("summary", request(machine, **changes))


def test_a_card_that_is_here():
    found = ask(MACHINE)
    (device,) = found.devices
    assert device.speed == plan_speed(CATALOGUE["rtx3060"], {"name": "test_vit"}, 64)
    assert device.precision.value == "bf16"
    text = shown(found)
    for words in ("Device 0: RTX 3060 12GB", "11.8 GiB of 12.0 GiB", "580.65.06", "none seen"):
        assert words in text
    assert text.rstrip().endswith("gpuopt check report=recommend")


def test_a_card_that_is_not_here_asks_nothing_of_torch():
    def never():
        raise AssertionError

    found = ask(gpu=preset("rtx4090"), words=["gpu=rtx4090"], look_at_build=never)
    text = shown(found)
    assert "RTX 4090: not here" in text
    assert "no NVIDIA driver" in text
    assert text.rstrip().endswith("gpuopt check report=recommend gpu=rtx4090")
    (device,) = json.loads(json.dumps(found.as_dict(), allow_nan=False))["devices"]
    assert (device["is_here"], device["memory_used_bytes"]) == (False, None)


@pytest.mark.parametrize(
    ("gpu", "words", "expected"),
    [
        (AbsentGpu(memory_gib=6.5), ["gpu.memory_limit_mib=6656"], "gpu.memory_gib=6.5"),
        (preset("cpu"), ["gpu=cpu", "model.name=a b"], "gpu=cpu 'model.name=a b'"),
    ],
)
def test_the_next_command_is_about_the_same(gpu, words, expected):
    text = shown(ask(gpu=gpu, words=words))
    assert text.rstrip().endswith(f"gpuopt check report=recommend {expected}")


def test_a_card_that_no_build_drives_is_told_of_though_it_is_not_here():
    assert "wheel without the card's" in shown(ask(gpu=preset("v100")))


def test_the_processors():
    text = shown(ask())
    assert "No GPU: the processors" in text
    assert "16 of 16, a CPU" in text


def test_what_is_not_known_reads_na_and_not_zero():
    text = shown(ask(with_card(memory_used_bytes=None)))
    assert "n/a of 12.0 GiB" in text


def test_pitfalls_are_lines_of_it():
    found = ask(with_card(throttle_reasons=["power_brake"]))
    assert "power_brake" in shown(found)
    assert found.as_dict()["devices"][0]["pitfalls"][0]["name"] == "throttling"


def test_a_small_card_is_told_to_recompute_and_a_wrong_model_is_refused():
    seven_bytes = predict_memory(MemorySetup("test_vit", 64, "bf16")).peak_bytes(7)
    tight = preset("rtx3060", memory_mib=2048)
    tight.headroom_ratio = 1 - (seven_bytes + 1) / 2**31
    (device,) = ask(gpu=tight).devices
    assert device.speed.checkpointing == "full"
    assert "model.checkpointing=full" in shown(ask(gpu=tight))
    with pytest.raises(InputError, match="unknown to timm"):
        ask(model={"name": "resnet51"})


def test_two_cards_are_two_parts():
    second = replace(MACHINE.cards[0], device=replace(MACHINE.cards[0].device, index=1))
    found = ask(replace(MACHINE, cards=(*MACHINE.cards, second), cards_of_driver=2))
    assert "Device 1: RTX 3060 12GB" in shown(found)
