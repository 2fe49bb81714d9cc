"""`cache_dir` is one folder, whoever keeps something in it."""

import pytest

from gpuopt.data import Digits
from gpuopt.engine.cache import EngineCache
from gpuopt.measure import roofline
from gpuopt.memory.step_cache import StepCache
from gpuopt.steps.compiler_cache import CompilerCache


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)


@pytest.mark.parametrize("kind", [CompilerCache, EngineCache, StepCache])
def test_a_home_folder_is_meant_in_every_cache(tmp_path, kind):
    assert kind("~/kept").folder.parent == tmp_path / "kept"


def test_a_home_folder_is_meant_for_images(tmp_path):
    sizes = {"image_size": 8, "micro_batch_size": 1, "global_batch_size": 1}
    assert Digits(cache_dir="~/kept", **sizes).cache_dir == tmp_path / "kept"


def test_a_home_folder_is_meant_for_counted_operations(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "forward_flops", lambda *_: 12)
    assert roofline.kept_forward_flops("test_vit", 32, "~/kept") == 12
    assert list((tmp_path / "kept/flops").iterdir())
