"""One question, several commands: `check`, `find_batch_size`, `train` and `predict` agree."""

import math
from types import SimpleNamespace

import pytest

from gpuopt.checks import CheckRequest, make_report
from gpuopt.config import compose_settings
from gpuopt.find_answer import find
from gpuopt.hardware import load_catalogue
from gpuopt.memory import cut_global_batch
from gpuopt.run_parts import plan_run
from gpuopt.schema import (
    CONF_DIR,
    to_check_config,
    to_find_config,
    to_predict_config,
    to_train_config,
)
from gpuopt.session.memory import absent_micro_batch
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.weights import ModelDescription

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
MODEL = ("model=timm", "model.name=test_vit")
CARD = SimpleNamespace(
    name="NVIDIA GeForce RTX 3060",
    major=8,
    minor=6,
    total_memory=12288 * 2**20,
    multi_processor_count=28,
)


@pytest.fixture(autouse=True)
def _card(monkeypatch):
    """Let training and prediction see a card that only answers questions."""
    for module in ("plan", "prediction"):
        monkeypatch.setattr(f"gpuopt.session.{module}.cuda_properties", lambda *_: CARD)


def found(*words):
    config = to_find_config(compose_settings("find_batch_size", [*MODEL, *words]))
    return find(config, [], lambda *_: pytest.fail("there is nothing to measure on")).answer


def planned(*words):
    config = to_train_config(compose_settings("train", [*MODEL, *words]))
    devices = config.trainer.devices
    alone = SimpleNamespace(world_size=devices, local_world_size=devices, local_number=0)
    return plan_run(config, alone)


def checked(*words):
    config = to_check_config(compose_settings("check", ["report=fit", *MODEL, *words]))
    asked = CheckRequest(
        gpu=config.gpu,
        catalogue=CATALOGUE,
        model=config.model,
        optimizer=config.optimizer,
        image_size=config.image_size,
        moving_average=config.moving_average,
    )
    (card,) = make_report("fit", asked).as_dict()["cards"]
    return card["largest"]


@pytest.mark.parametrize(
    ("card", "training", "way"),
    [
        ((), (), "plain"),
        (("gpu.headroom_ratio=0.3", "optimizer=sgd"), ("trainer.devices=2",), "plain"),
        (("gpu.memory_limit_mib=4096", "model.checkpointing=full"), (), "checkpointed"),
    ],
)
@pytest.mark.parametrize("size", ["auto", 96])
def test_training_gets_what_was_found_and_checked(card, training, way, size):
    words = ("gpu=rtx3060", *card, *training, f"image_size={size}", "global_batch_size=20000")
    plan, answer = planned(*words), found(*words)
    assert plan.image_size == answer.image_size == (320 if size == "auto" else size)
    assert plan.micro_batch_size == answer.choice.value
    settings = compose_settings("train", [*MODEL, *words])
    gpu = to_find_config(compose_settings("find_batch_size", [*MODEL, *words])).gpu.card()
    assert absent_micro_batch(gpu, settings).value == answer.choice.value
    check = checked("gpu=rtx3060", *card, f"image_size={answer.image_size}")
    largest = check[way]
    assert largest == answer.largest
    assert answer.cards[0].levels["full"] == check["checkpointed"]
    share = math.ceil(20000 / plan.devices)
    assert cut_global_batch(largest, share).micro_batch_size == answer.choice.value < share


@pytest.mark.parametrize("limit_mib", [1500, 12288])
def test_prediction_gets_what_was_found_and_checked(limit_mib):
    words = ("gpu=rtx3060", f"gpu.memory_limit_mib={limit_mib}")
    config = to_predict_config(compose_settings("predict", list(words)))
    setup = PredictionSetup.choose(
        ModelDescription("test_vit", ("a", "b"), 320, (0.0,) * 3, (1.0,) * 3),
        preset=config.gpu,
        catalogue=CATALOGUE,
        precision=config.precision.name,
        batch_size=config.batch_size,
        num_workers=0,
    )
    answer = found(*words, "image_size=320", "purpose=predict")
    assert setup.batch_size == answer.choice.value
    assert answer.largest == checked(*words, "image_size=320")["predict"]
    assert answer.choice.value == min(answer.largest, 256)
    assert answer.cards[0].levels == {}
