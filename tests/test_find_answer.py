"""From settings to answers, with measurements that are made up."""

import functools
from dataclasses import replace

import pytest

from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from gpuopt.find_answer import find, make_request, refuse_contradictions
from gpuopt.finding.answer import CardAnswer
from gpuopt.finding.probing_process import Measured
from gpuopt.hardware import DriverDevice
from gpuopt.schema import to_find_config

BIG = DriverDevice(0, "NVIDIA H200", 143771 * 2**20, 132, 9, 0)
SMALL = DriverDevice(1, "NVIDIA GeForce RTX 3060", 12288 * 2**20, 28, 8, 6)
ANSWER = CardAnswer(
    card="",
    device_index=0,
    evidence="measured",
    reason="",
    precision="bf16",
    headroom_ratio=0.08,
    context_bytes=None,
    free_bytes=2**33,
    budget_bytes=2**32,
    largest=0,
    knee=8,
    chosen=0,
    why="made up",
)
LARGEST = {0: 100, 1: 24}
ADAMW = {"_target_": "gpuopt.model.AdamW"}


@pytest.fixture(scope="module")
def composed():
    """Compose settings, each words once."""

    @functools.cache
    def compose(*words):
        tiny = ("model=timm", "model.name=test_vit", "image_size=32", "global_batch_size=96")
        return to_find_config(compose_settings("find_batch_size", [*tiny, *words]))

    return compose


@pytest.fixture
def found(composed):
    """Find with settings; returns what was found and what was measured how."""

    def run(*words, present=(BIG, SMALL), headrooms=(0.08, 0.08), **values):
        config = replace(composed(*words), **values)
        asked = []

        def measure(device, request, reason):
            asked.append((device.index, request.checkpointing, request.offloads))
            largest = LARGEST[device.index]
            answer = replace(
                ANSWER,
                card=device.name,
                device_index=device.index,
                reason=reason,
                largest=largest,
                chosen=request.choose(largest)[0],
                headroom_ratio=headrooms[device.index],
            )
            return Measured(answer, {"absent": "made up"})

        return find(config, list(present), measure), asked

    return run


def test_one_card_is_measured_in_its_place(found):
    result, asked = found()
    assert asked == [(0, "none", False)]
    assert result.answer.largest == 100
    assert result.answer.choice.evidence == "measured"
    assert result.settings == {"micro_batch_size": 96}
    assert result.devices is None  # CUDA takes the first one by itself


def test_different_cards_are_measured_each_and_the_least_holds_for_all(found):
    result, asked = found(gpu_ids=[0, 1])
    assert [index for index, *_ in asked] == [0, 1]
    assert [card.largest for card in result.answer.cards] == [100, 24]
    assert result.answer.largest == 24
    # 96 on two devices: 48 each, in two parts.
    assert result.settings == {"micro_batch_size": 24, "trainer.devices": 2}
    assert result.devices == (0, 1)
    assert "the least of 2 devices" in result.answer.choice.reason


def test_different_cards_are_measured_at_one_image_size(found):
    result, _ = found(gpu_ids=[0, 1], image_size="auto")  # 384 px and 320 px by their presets
    assert result.answer.image_size == result.settings["image_size"] == 320


def test_a_named_card_that_is_not_the_first_is_named_in_the_command(found):
    result, asked = found("gpu=rtx3060")
    assert [index for index, *_ in asked] == [1]
    assert result.devices == (1,)
    assert result.settings == {"micro_batch_size": 24}


def test_what_must_fit_has_to_fit_all_of_them(found):
    assert found(gpu_ids=[0, 1], target=24)[0].answer.shortfall is None
    shortfall = found(gpu_ids=[0, 1], target=25)[0].answer.shortfall
    assert shortfall.startswith("target=25: 24 fit NVIDIA GeForce RTX 3060, measured; take")


@pytest.mark.parametrize(
    ("checkpointing", "remedy"),
    [("none", "=stages=1"), ("stages=1", "=full"), ("full", None)],
)
def test_a_shortfall_names_a_level_above_the_one_that_was_asked(composed, checkpointing, remedy):
    levels = {"none": 10, "stages=1": 50, "full": 60}
    request = make_request(composed()).with_checkpointing(checkpointing)
    words = replace(request, target=40).shortfall(30, "a card", levels)
    assert ("predicted to reach it" in words) is (remedy is not None)
    assert remedy is None or f"model.checkpointing{remedy} is" in words


@pytest.mark.parametrize(("target", "is_met"), [(24, True), (25, False), (None, None)])
def test_the_target_is_met_or_not_whatever_the_minimum(found, target, is_met):
    answer = found(gpu_ids=[0, 1], target=target, min_batch_size=30)[0].answer
    assert answer.as_dict()["target_met"] is is_met
    assert answer.shortfall is not None  # 24 fit


def test_aggressive_pins_what_it_took(found):
    result, asked = found(gpu_ids=[0, 1], aggressive=True, headrooms=(0.01, 0.02))
    assert {level for _, level, _ in asked} == {"full"}
    assert result.settings == {
        "micro_batch_size": 24,
        "trainer.devices": 2,
        "model.checkpointing": "full",
        "gpu.headroom_ratio": 0.02,
    }


@pytest.mark.parametrize("has_torchao", [True, False])
def test_aggressive_offloads_the_optimizer_where_that_is_possible(found, monkeypatch, has_torchao):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if has_torchao else None)
    result, asked = found(aggressive=True, optimizer=ADAMW)
    assert asked == [(0, "full", has_torchao)]
    assert result.settings.get("optimizer.offload", False) is has_torchao
    notes = " ".join(result.answer.notes)
    assert ("the optimizer's state stays on the card: it needs" in notes) is not has_torchao
    together, _ = found(aggressive=True, optimizer=ADAMW, gpu_ids=[0, 1])
    assert "torchao does it on one device" in " ".join(together.answer.notes)


def test_automatic_checkpointing_is_settled_before_a_card_is_measured(found):
    _, ((_, level, _),) = found("model.checkpointing=auto")
    assert level == "none"  # 96 tiny images fit an H200
    result, _ = found(
        "model.checkpointing=auto", "gpu.memory_gib=1.2", "headroom=0.2", "target=2000"
    )
    assert result.settings["model.checkpointing"] == result.answer.checkpointing != "none"
    levels = result.answer.cards[0].levels
    assert next(iter(levels)) == "none"
    assert list(levels)[-1] == "full"
    assert sorted(levels.values()) == list(levels.values())


def test_automatic_checkpointing_does_not_recompute_for_more_than_the_maximum(found):
    words = ("model.checkpointing=auto", "gpu.memory_gib=1.2", "headroom=0.2")
    levels = {
        most: found(*words, global_batch_size=2000, max_batch_size=most)[0].answer.checkpointing
        for most in (None, 8)
    }
    assert levels[8] == "none"
    assert levels[None] != "none"


def test_cards_that_work_together_are_settled_by_the_least_of_them(found):
    tiny = replace(SMALL, total_memory=1100 * 2**20)
    words = ("model.checkpointing=auto", "headroom=0.2")
    _, alone = found(*words, target=4000)
    _, together = found(*words, target=4000, gpu_ids=[0, 1], present=(BIG, tiny))
    assert {level for _, level, _ in alone} == {"none"}
    assert len(together) == 2
    assert "none" not in {level for _, level, _ in together}


def test_predictions_of_cards_are_for_cards_that_are_not_there(found):
    result, asked = found("gpu=t4")
    assert asked == []
    assert result.answer.cards[0].evidence == "predicted"
    assert "NVIDIA H200" in result.answer.cards[0].reason


def test_several_devices_share_the_global_batch(found):
    result, asked = found("trainer.devices=2")
    assert [index for index, *_ in asked] == [0, 1]
    assert result.settings["micro_batch_size"] == 24
    assert "trainer.devices" not in result.settings  # was typed


def test_prediction_looks_for_its_own_setting(found):
    result, _ = found("tta=legacy", "gpu=t4", purpose="tta")
    assert result.settings == {"batch_size": 256, "tta": "legacy"}
    assert any("views" in note for note in result.answer.notes)


@pytest.mark.parametrize(
    ("mode", "purpose", "note"),
    [
        ("off", "train", None),
        ("default", "train", None),
        ("auto", "train", "measured eager; train times both"),
        ("max-autotune", "train", "measured without CUDA graphs"),
        ("reduce-overhead", "train", "measured without CUDA graphs"),
        ("default", "predict", "measured eager; it is for training"),
    ],
)
def test_it_is_said_where_a_measurement_is_not_compiled_as_training_is(found, mode, purpose, note):
    notes = found(f"compile.mode={mode}", purpose=purpose)[0].answer.notes
    assert [n for n in notes if n.startswith("compile.mode=")] == [
        n for n in notes if note is not None and n.startswith(f"compile.mode={mode}: {note}")
    ]
    assert len(notes) == (note is not None)


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ({"max_batch_size": 20}, 20),  # 96 in 5 parts
        ({"max_batch_size": 30}, 24),  # 96 in 4 parts
        ({"global_batch_size": 100, "max_batch_size": 64}, 50),
        ({"global_batch_size": 20, "global_batch_schedule": {3: 180}}, 90),
        ({"purpose": "predict", "max_batch_size": 1000}, 100),
        ({"purpose": "predict", "max_batch_size": 10}, 10),
    ],
)
def test_the_global_batch_is_cut_evenly_below_the_maximum(found, values, chosen):
    assert found(**values)[0].answer.choice.value == chosen


@pytest.mark.parametrize(
    ("values", "bound"),
    [({}, 256), ({"target": 512}, 512), ({"minimum": 300}, 300), ({"maximum": 40}, 40)],
)
def test_a_prediction_grows_to_what_must_fit_and_no_further(composed, values, bound):
    request = replace(make_request(composed()), purpose="predict", **values)
    assert request.bounded(1000) == bound


def test_a_limit_without_a_card_stands_for_one(found):
    nameless = found("gpu.memory_limit_mib=1500", present=())[0].answer.cards[0]
    limited = found("gpu=t4", "gpu.memory_limit_mib=1500", present=())[0].answer.cards[0]
    assert nameless.evidence == limited.evidence == "predicted"
    assert nameless.free_bytes == limited.free_bytes
    assert nameless.free_bytes + nameless.context_bytes == 1500 * 2**20


@pytest.mark.parametrize(("asked", "used"), [("auto", "fp32"), ("bf16", "bf16"), ("tf32", "fp32")])
def test_the_precision_of_the_cpu_is_the_one_it_computes_in(composed, found, asked, used):
    precision = replace(composed().precision, name=asked)
    assert found("gpu=cpu", precision=precision)[0].answer.cards[0].precision == used


def test_the_cpu_takes_less_when_asked_to(found):
    assert found("gpu=cpu", max_batch_size=8)[0].answer.choice.value == 8
    assert found("gpu=cpu", purpose="predict")[0].answer.choice.value == 32


@pytest.mark.parametrize(
    ("values", "typed", "message"),
    [
        ({}, ["micro_batch_size"], "micro_batch_size is what is looked for"),
        ({}, ["accumulate_grad_batches"], "accumulate_grad_batches is what is looked for"),
        ({"resume": True}, [], "resume is for gpuopt train"),
        ({"run": "latest"}, [], "add purpose=predict"),
        ({"test_only": True, "save_config": "a"}, [], "test_only=true writes nothing"),
        ({"test_only": True, "memory_profile": "a"}, [], "test_only=true writes nothing"),
        ({"purpose": "predict", "save_config": "a"}, [], "purpose=train only"),
        ({"global_batch_size": 1, "gpu_ids": [0, 1]}, [], "every device needs a sample"),
        ({"global_batch_schedule": {2: 1}, "gpu_ids": [0, 1]}, [], "global_batch_size=1 is sma"),
        ({"max_batch_size": 4, "target": 5}, [], "target=5 is above max_batch_size=4"),
        ({"max_batch_size": 4, "min_batch_size": 5}, [], "min_batch_size=5 is above"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(composed, values, typed, message):
    with pytest.raises(InputError, match=message):
        refuse_contradictions(replace(composed(), **values), typed)


def test_devices_are_counted_once(composed):
    refuse_contradictions(replace(composed("trainer.devices=2"), gpu_ids=[0, 1]), [])
    one_each = replace(composed(), gpu_ids=[0, 1], global_batch_size=2)
    refuse_contradictions(one_each, [])
    refuse_contradictions(replace(one_each, global_batch_size=1, purpose="predict"), [])
    with pytest.raises(InputError, match="leave one of them out"):
        refuse_contradictions(replace(composed("trainer.devices=2"), gpu_ids=[0, 1, 2]), [])
