import json
from dataclasses import replace

import pytest

from gpuopt.memory import Line, MemorySetup, predict_memory, step_cache
from gpuopt.memory.estimate import StepMemory
from gpuopt.memory.step_cache import StepCache

SETUP = MemorySetup("test_vit", 32, "bf16")
STEP = StepMemory(100, 20, 50, (Line(3, 4), Line(1, 5)), 32)


@pytest.fixture
def cache(tmp_path):
    cache = StepCache(tmp_path)
    cache.write(SETUP, STEP)
    return cache


def test_what_was_kept_comes_back(cache):
    assert cache.read(SETUP) == STEP
    (file,) = cache.folder.iterdir()
    assert file.suffix == ".json"


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": "test_resnet"},
        {"image_size": 64},
        {"image_size": None},
        {"precision": "fp32"},
        {"checkpointing": "full"},
        {"num_classes": 17},
        {"drop_rate": 0.5},
        {"drop_path_rate": 0.0},
        {"training": False},
    ],
)
def test_whatever_changes_the_step_has_a_place_of_its_own(cache, change):
    assert cache.read(replace(SETUP, **change)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp16"},
        {"optimizer_moments": 1},
        {"optimizer_is_fused": False},
        {"moving_average": True},
    ],
)
def test_what_the_step_does_not_depend_on_shares_one(cache, change):
    assert cache.read(replace(SETUP, **change)) == STEP


@pytest.mark.parametrize("name", ["_versions", "_code"])
def test_other_versions_are_other_questions(cache, monkeypatch, name):
    other = {"torch": "0"} if name == "_versions" else "0"
    monkeypatch.setattr(step_cache, name, lambda: other)
    assert cache.read(SETUP) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:100],
        lambda text: text.replace('"buffers_bytes": 20', '"buffers_bytes": 21'),
        lambda text: text.replace("test_vit", "test_vat"),
        lambda text: "[1, 2]",
        lambda text: json.dumps({**json.loads(text), "answer": {}}),
    ],
)
def test_a_damaged_entry_is_computed_again(tmp_path, damage):
    expected = predict_memory(SETUP, cache_dir=tmp_path)
    (file,) = (tmp_path / "memory").iterdir()
    whole = file.read_text("utf-8")
    file.write_text(damage(whole), "utf-8")
    assert StepCache(tmp_path).read(SETUP) is None or damage(whole) == whole
    assert predict_memory(SETUP, cache_dir=tmp_path) == expected
    assert file.read_text("utf-8") == whole


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "memory").write_text("a file")
    assert predict_memory(SETUP, cache_dir=tmp_path).bytes_per_sample > 0
    assert (tmp_path / "memory").read_text() == "a file"


def test_a_known_answer_follows_no_step(tmp_path, monkeypatch):
    expected = predict_memory(SETUP, cache_dir=tmp_path)
    monkeypatch.setattr("gpuopt.memory.predictor._follow", lambda setup: 1 / 0)
    assert predict_memory(SETUP, cache_dir=tmp_path) == expected
