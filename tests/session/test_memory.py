import re

import pytest

from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.memory import MemorySetup
from gpuopt.schema import CONF_DIR
from gpuopt.session.memory import absent_choices, absent_micro_batch, memory_setup

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
TINY = ["model=timm", "model.name=test_vit", "image_size=160", "global_batch_size=100000"]


def test_settings_become_what_the_predictor_asks():
    model = {"name": "resnet18", "checkpointing": "full", "drop_rate": 0.1, "drop_path_rate": None}
    sgd = {"_target_": "gpuopt.model.Sgd"}
    setup = memory_setup(model, 64, "fp16", optimizer=sgd, moving_average=True)
    assert setup == MemorySetup(
        "resnet18",
        64,
        "fp16",
        checkpointing="full",
        drop_rate=0.1,
        optimizer_moments=1,
        optimizer_is_fused=False,
        moving_average=True,
    )
    assert memory_setup({"name": "resnet18"}, None, "bf16") == MemorySetup("resnet18", None, "bf16")
    assert memory_setup(model, 64, "fp16", clips_gradients=False).optimizer_is_fused


@pytest.mark.parametrize(("stem", "precision"), [("rtx3060", "bf16"), ("gtx1660ti", "fp32")])
def test_a_card_that_is_not_there_gets_the_micro_batch_of_its_memory(stem, precision):
    gpu = CATALOGUE[stem]
    choice = absent_micro_batch(gpu, compose_settings("train", [f"gpu={stem}", *TINY]))
    assert (choice.key, choice.evidence) == ("micro_batch_size", "predicted")
    assert choice.value > 100
    pinned = [f"gpu={stem}", f"precision={precision}", *TINY]
    assert absent_micro_batch(gpu, compose_settings("train", pinned)) == choice


def test_averaged_weights_headroom_and_devices_count():
    words = ["gpu=rtx3060", "model=timm", "model.name=resnet18", "image_size=160"]

    def largest(*more):
        settings = compose_settings("train", [*words, *more])
        gpu = load_catalogue(CONF_DIR / "gpu")["rtx3060"]
        gpu.headroom_ratio = settings["gpu"]["headroom_ratio"]
        found = re.match(r"(\d+) fit", absent_micro_batch(gpu, settings).reason)
        return int(found.group(1))

    plain = largest()
    assert largest("gpu.headroom_ratio=0.5") < 0.6 * plain
    assert largest("model.checkpointing=full") > plain
    assert largest("callbacks.moving_average.enabled=true") < plain
    settings = compose_settings("train", [*words, "global_batch_size=8", "trainer.devices=2"])
    assert absent_micro_batch(CATALOGUE["rtx3060"], settings).value == 4


def test_a_model_that_timm_does_not_know_is_refused():
    words = ["gpu=rtx3060", "model=timm", "model.name=no_such_model"]
    with pytest.raises(InputError, match="unknown to timm"):
        absent_micro_batch(CATALOGUE["rtx3060"], compose_settings("train", words))


def test_the_level_of_checkpointing_is_predicted_as_well():
    words = ["gpu=rtx3060", "model=timm", "model.name=test_vit", "image_size=160"]
    settings = compose_settings("train", [*words, "model.checkpointing=auto"])
    settings["global_batch_size"] = 2000
    level, micro = absent_choices(CATALOGUE["rtx3060"], settings)
    assert (level.key, micro.key) == ("model.checkpointing", "micro_batch_size")
    settings["model"]["checkpointing"] = "full"
    assert len(absent_choices(CATALOGUE["rtx3060"], settings)) == 1
