"""Each remedy names settings that exist."""

import pytest

from gpuopt.config import compose_settings
from gpuopt.diagnosis.remedies import RunSetting, compute_remedy, remedy
from tests.diagnosis.simulated_machine import Training, measure

SET = RunSetting(
    num_workers=0,
    cpus=16,
    cache="auto",
    pin_memory=False,
    micro_batch_size=64,
    global_batch_size=64,
    precision="fp16",
    is_cuda=True,
    compile_mode="off",
    checkpointing="full",
    offload=False,
    clips=True,
    logger="tensorboard",
)
KINDS = ("data", "copy", "preparation", "synchronisation", "host", "optimizer", "batch")


def slow_loader(seconds, workers=0):
    measured = measure(Training(load_s=seconds))
    return type(measured)(measured.parts, 64, 0.5, [1000 * seconds], num_workers=workers)


def test_settings_to_try_are_settings_of_train():
    answers = {kind: remedy(kind, slow_loader(0.2), SET) for kind in KINDS}
    assert all(words for words, _ in answers.values())
    overrides = [*compute_remedy(SET)[1], *(o for _, more in answers.values() for o in more)]
    assert len(overrides) >= 8
    settings = compose_settings("train", overrides)
    for override in overrides:
        key, _, value = override.partition("=")
        node = settings
        for name in key.split("."):
            node = node[name]
        found = node["name"] if isinstance(node, dict) else node  # a group is known by its name
        assert str(found).lower() == value


@pytest.mark.parametrize("kind", KINDS)
def test_somebodys_own_trainer_gets_words_and_no_settings(kind):
    words, overrides = remedy(kind, slow_loader(0.2), RunSetting())
    assert words
    assert overrides == ()


def test_as_many_loader_processes_as_the_step_asks_for():
    step_s = 0.001 * measure(Training()).parts.combined({"in_memory": 1.0}).value
    words, overrides = remedy("data", slow_loader(2.6 * step_s), SET)
    assert overrides == ("num_workers=4", "data.cache=on")
    assert "4 processes" in words


def test_where_no_number_of_processes_is_enough_it_says_what_is_missing():
    words, overrides = remedy("data", slow_loader(10.0), RunSetting(num_workers=0, cpus=2))
    assert overrides == ("num_workers=2",)
    assert words.startswith("CPU bound")
    assert "samples/s are missing" in words


def test_a_loader_that_is_fast_enough_alone_gets_no_more_processes():
    words, overrides = remedy("data", slow_loader(0.0001, workers=2), SET)
    assert "competes" in words
    assert not any(word.startswith("num_workers") for word in overrides)


@pytest.mark.parametrize(
    ("total", "expected"),
    [(256, ("micro_batch_size=128",)), (64, ("global_batch_size=128", "compile.mode=auto"))],
)
def test_a_larger_batch_leaves_the_training_as_it_is_where_it_can(total, expected):
    setting = RunSetting(global_batch_size=total, is_cuda=True, compile_mode="off")
    assert remedy("batch", measure(Training()), setting)[1] == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (RunSetting(offload=True), ("optimizer.offload=false",)),
        (RunSetting(precision="fp16", clips=True), ("precision=bf16",)),
        (RunSetting(precision="bf16", clips=True), ()),
    ],
)
def test_what_forbids_a_fused_optimizer(setting, expected):
    assert remedy("optimizer", measure(Training()), setting)[1] == expected
