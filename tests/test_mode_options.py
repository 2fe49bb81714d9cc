import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gpuopt.hardware import AbsentGpu
from gpuopt.mode_options import MODES, shipped_modes, training_words
from gpuopt.schema import CONF_DIR, register


@pytest.fixture
def composing():
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


def test_every_shipped_mode_is_weighed():
    assert set(MODES) == {path.stem for path in (CONF_DIR / "mode").glob("*.yaml")}


def test_a_mode_is_what_training_would_do(composing):
    modes = shipped_modes()
    high = modes["highperf"]()
    assert high.model["name"].startswith("convnext_base")
    assert (high.image_size, high.global_batch_size, high.max_epochs) == ("auto", 256, 15)
    assert (high.moving_average, high.pin_memory) == (True, True)
    low = modes["lowend_highperf"]()
    assert (low.model["checkpointing"], low.pin_memory) == ("full", False)


def test_words_that_training_does_not_know_are_left_out():
    typed = ["report=recommend", "model=timm", "model.name=x", "images=3", "gpu=rtx3060", "run=a"]
    assert training_words(typed, AbsentGpu()) == ["model=timm", "model.name=x", "gpu=rtx3060"]
    memory = AbsentGpu(memory_gib=6)
    assert training_words(["gpu.memory_gib=6"], memory) == ["gpu.memory_limit_mib=6144"]
