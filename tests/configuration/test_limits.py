import copy
import itertools
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from gpuopt.build import build
from gpuopt.config import compose_settings
from gpuopt.configuration import check_config, leaves, limits, parameters_of
from gpuopt.configuration.given_arguments import GIVEN as GIVEN_BY_PROGRAM
from gpuopt.configuration.limits import CHOICES, RANGES
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.schema import PredictConfig, TrainConfig, TrainerValues

CONF = Path(__file__).parents[2] / "conf"
GROUPS = sorted(
    p.name for p in CONF.iterdir() if p.is_dir() and p.name not in ("hydra", "callbacks")
)
# Checked by the dataclass of the group. The guide's row in `gpu.seed` is never computed with.
BY_DATACLASS = ("gpu", "tta")
GIVEN = {"image_size": 32, "micro_batch_size": 4, "global_batch_size": 8, "num_workers": 0}


def options_of(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def cards():
    """Presets of which no two have the same keys; each is composed in `tests/test_conf.py`."""
    paths = sorted((CONF / "gpu").glob("*.yaml"))
    by_keys = {tuple(yaml.safe_load(path.read_text("utf-8"))): path.stem for path in paths}
    return sorted(by_keys.values())


def compose_all():
    """Compose every option of every group at least once, several groups at a time."""
    options = {group: options_of(group) for group in GROUPS} | {"gpu": cards()}
    columns = [[f"{group}={option}" for option in options[group]] for group in GROUPS]
    for rows in itertools.zip_longest(*columns):
        yield compose_settings("train", [word for word in rows if word])
    for data in (None, *options_of("data")):
        yield compose_settings("predict", [f"data={data}"] if data else [])
    yield compose_settings("check", ["report=fit"])
    yield compose_settings("export", ["num_classes=7"])
    yield compose_settings("recommend_tta", ["target_minutes=20", "min_f1=0.9", "images=100"])
    yield compose_settings("find_batch_size", ["max_batch_size=64", "target=8"])
    yield compose_settings("tune", ["target=loader", "goal=memory"])
    yield compose_settings("benchmark", ["optimal_batch_size=8"])
    yield compose_settings("profiler", ["wait=87"])
    yield compose_settings("diagnose", ["target=throttle"])


@pytest.fixture(scope="module")
def composed():
    return list(compose_all())


@pytest.fixture
def settings(composed):
    return copy.deepcopy(composed[0])


def is_number(value):
    if isinstance(value, list):
        return any(is_number(item) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def without_range(settings):
    return [
        key
        for key, value in leaves(settings)
        if is_number(value) and key not in RANGES and key.partition(".")[0] not in BY_DATACLASS
    ]


def set_in(settings, key, value):
    *groups, last = key.split(".")
    node = settings
    for group in groups:
        node = node[group]
    node[last] = value


def has(settings, key):
    return key in dict(leaves(settings))


def with_value(composed, key, value):
    """A copy of a composed configuration that has this key, with another value."""
    found = next(settings for settings in composed if has(settings, key))
    changed = copy.deepcopy(found)
    set_in(changed, key, value)
    return changed


def test_every_number_of_every_option_has_a_range(composed):
    for settings in composed:
        assert without_range(settings) == []


def test_a_new_number_without_a_range_would_be_noticed(settings):
    settings["trainer"]["patience"] = 3
    settings["data"]["augmentation"]["shear"] = 0.5
    settings["data"]["sizes"] = [1, 2]
    expected = ["data.augmentation.shear", "data.sizes", "trainer.patience"]
    assert sorted(without_range(settings)) == expected


def test_numbers_that_are_null_by_default_have_a_range_too(composed):
    wanted = set()
    for settings in composed:
        for place, node in objects_in(settings):
            for parameter in parameters_of(node["_target_"]):
                if parameter.name in node and {"int", "float"} & set(parameter.annotation.split()):
                    wanted.add(f"{place}.{parameter.name}")
    for kind, prefix in ((TrainerValues, "trainer."), (TrainConfig, ""), (PredictConfig, "")):
        for field in fields(kind):
            if any(number in str(field.type) for number in ("int", "float")):
                wanted.add(f"{prefix}{field.name}")
    assert "model.drop_path_rate" in wanted
    assert wanted - set(RANGES) == set()


def objects_in(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            if "_target_" in value:
                yield f"{prefix}{key}", value
            yield from objects_in(value, f"{prefix}{key}.")


@pytest.mark.parametrize("table", [RANGES, CHOICES], ids=["ranges", "choices"])
def test_no_key_is_left_over(table, composed):
    for key in table:
        assert any(has(settings, key) for settings in composed), key


def ends_of(key):
    low, high = RANGES[key]
    return (int(low), int(high)) if isinstance(low, int) else (low, high)


@pytest.mark.parametrize("key", RANGES)
def test_both_ends_of_a_range_are_accepted_and_what_lies_beyond_is_not(key, composed):
    low, high = ends_of(key)
    if key == "fold":  # is one of several
        composed = [{**settings, "folds": 20} for settings in composed]
    if key.endswith("_export.optimal_batch_size"):  # is at most the largest
        composed = [with_value(composed, key.replace("optimal", "max"), high)]
    for value in (low, high):
        check_config(with_value(composed, key, value))
    beyond = (low - 1, high * 2 + 1, math.nan, math.inf, -math.inf, 10**40)
    for value in beyond:
        with pytest.raises(InputError, match=f"^{key}="):
            check_config(with_value(composed, key, value))


def buildable():
    """Keys whose class refuses values itself, which must not be narrower than the range."""
    prefixes = ("callbacks.", "data.", "optimizer.", "scheduler.")
    return [key for key in RANGES if key.startswith(prefixes)]


@pytest.mark.parametrize("key", buildable())
def test_the_class_accepts_what_the_range_accepts(key, composed, tmp_path):
    for value in ends_of(key):
        settings = with_value(composed, key, value)
        if key.startswith("callbacks."):
            name = key.split(".")[1]
            node = {k: v for k, v in settings["callbacks"][name].items() if k != "enabled"}
            given = {"folder": tmp_path} if name == "checkpoint" else {}
            build(node, f"callbacks.{name}", **given)
            continue
        group = key.split(".")[0]
        built = build(settings[group], group, **(GIVEN if group == "data" else {}))
        if group == "optimizer":
            parameter = torch.nn.Parameter(torch.zeros(2, 2))
            built([{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}], fused=False)
        elif group == "scheduler":
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
            built(optimizer, total_steps=10, global_batch_size=8)


@pytest.mark.parametrize("key", CHOICES)
def test_every_word_of_a_choice_passes_and_others_are_refused(key, composed):
    for word in CHOICES[key]:
        changed = with_value(composed, key, word)
        if word in ("min", "val/loss"):  # these two go together
            node = changed["callbacks"][key.split(".")[1]]
            node |= {"monitor": "val/loss", "mode": "min"}
        check_config(changed)
    for wrong in ("nonsense", None, 7, ""):
        with pytest.raises(InputError, match=rf"^{key}={wrong} is not one of |^say what"):
            check_config(with_value(composed, key, wrong))


@pytest.mark.parametrize("name", ["checkpoint", "early_stopping"])
@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "max"), ("val/f1", "min")])
def test_the_worst_epoch_is_not_taken_for_the_best(name, monitor, mode, settings):
    settings["callbacks"][name] |= {"monitor": monitor, "mode": mode}
    with pytest.raises(InputError, match=rf"^callbacks\.{name}\.mode={mode} would take the worst"):
        check_config(settings)


@pytest.mark.parametrize(
    ("name", "low"), [("batch_size_finder", "minimum"), ("adaptive_batch_size", "initial")]
)
def test_the_least_is_not_above_the_most(name, low, settings):
    node = settings["callbacks"][name]
    node |= {low: 5, "maximum": 5}
    check_config(settings)
    node[low] = 6
    with pytest.raises(InputError, match=rf"^callbacks\.{name}\.{low}=6 is above .*maximum=5"):
        check_config(settings)


@pytest.mark.parametrize("name", ["engine_export", "tensorrt_export"])
def test_an_engine_is_not_tuned_for_more_images_than_it_takes(name, settings):
    node = settings["callbacks"][name]
    node |= {"optimal_batch_size": 5, "max_batch_size": 5}
    check_config(settings)
    node["optimal_batch_size"] = 6
    with pytest.raises(InputError, match=rf"^callbacks\.{name}\.optimal_batch_size=6 is above"):
        check_config(settings)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"optimize": True, "engine": "onnx"}, "^optimize=true .* and engine=onnx names one"),
        ({"optimize": True, "engine_path": "x"}, "^optimize=true .* and engine_path=x names one"),
        ({"engine": "eager", "engine_path": "x"}, "^engine=eager is no file"),
        ({"engine": "compiled", "engine_path": "x"}, "^engine=compiled is no file"),
    ],
)
def test_words_about_an_engine_do_not_contradict_each_other(words, reason, composed):
    base = next(settings for settings in composed if "optimize" in settings)
    for key, value in words.items():
        check_config({**base, key: value})
    with pytest.raises(InputError, match=reason):
        check_config({**base, **words})


@pytest.mark.parametrize(
    ("key", "value"), [("data.cache", True), ("data.cache", False), ("compile.mode", "False")]
)
def test_a_bare_on_or_off_in_a_file_is_explained(key, value, composed):
    with pytest.raises(InputError, match="put on and off in quotes"):
        check_config(with_value(composed, key, value))


@pytest.mark.parametrize("key", limits._AUTO)
def test_auto_or_a_whole_number(key, composed):
    for value in ("auto", 16):
        check_config(with_value(composed, key, value))
    for wrong in (True, False, 1.5, None, "many", "16", [16], {}):
        with pytest.raises(InputError, match=rf"^{key}=.* is neither auto nor a whole number"):
            check_config({**with_value(composed, key, 1), key: wrong})


def test_switches_are_no_numbers(settings):
    for key in ("pin_memory", "debug", "trainer.deterministic"):
        for value in (True, False):
            set_in(settings, key, value)
            check_config(settings)
    set_in(settings, "model.learning_rate", True)
    with pytest.raises(InputError, match=r"model\.learning_rate=True is not of type float"):
        check_config(settings)


def test_a_run_of_no_steps_is_refused(settings):
    set_in(settings, "trainer.max_steps", 0)
    with pytest.raises(InputError, match=r"trainer\.max_steps=0 would train nothing"):
        check_config(settings)


NUMBERS_OF_GPU = [
    field.name
    for field in fields(Gpu)
    if any(number in str(field.type) for number in ("int", "float"))
]


@pytest.mark.parametrize("name", NUMBERS_OF_GPU)
def test_the_dataclass_of_the_card_checks_every_number(name, settings):
    for wrong in (-1, math.nan, math.inf):
        settings["gpu"] = {name: wrong}
        with pytest.raises(InputError, match=rf"^gpu\.{name}="):
            check_config(settings)


def test_the_dataclass_of_the_views_checks_every_number(settings):
    for key, wrong in (("chunk_size", 0), ("chunk_size", True), ("views", [{"rotate": 361}])):
        with pytest.raises(InputError, match=r"^tta\."):
            check_config({**settings, "tta": {key: wrong}})


@pytest.mark.parametrize("group", ["data", "model", "optimizer", "scheduler"])
@pytest.mark.parametrize("node", [None, "digits", {}, {"name": "x"}, 5])
def test_a_run_needs_every_object(group, node, settings):
    with pytest.raises(InputError, match=f"^{group} must hold a _target_"):
        check_config({**settings, group: node})


def test_a_prediction_needs_no_data():
    assert compose_settings("predict", [])["data"] is None


@pytest.mark.parametrize("callbacks", [None, {}, "default", {"gpu_stats": {}}])
def test_a_run_needs_its_checkpoints(callbacks, settings):
    with pytest.raises(InputError, match=r"^callbacks\.checkpoint is missing"):
        check_config({**settings, "callbacks": callbacks})


def test_callbacks_are_switched_by_true_and_false(settings):
    for value in (True, False):
        set_in(settings, "callbacks.gpu_stats.enabled", value)
        check_config(settings)
    set_in(settings, "callbacks.gpu_stats.enabled", "yes")
    with pytest.raises(InputError, match=r"callbacks\.gpu_stats\.enabled='yes' is not true or"):
        check_config(settings)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("callbacks.checkpoint.enabled", False, "callbacks.checkpoint has no key 'enabled'"),
        ("callbacks.checkpoint.folder", "x", "callbacks.checkpoint.folder is set by the program"),
        ("callbacks.gpu_stats", None, "callbacks.gpu_stats must hold a _target_"),
        ("model.enabled", True, "model has no key 'enabled'"),
        ("model.num_classes", 3, "model.num_classes is set by the program"),
        ("data.seed", 1, "data.seed is set by the program: write seed=..."),
        ("data.image_size", 64, "data.image_size is set by the program: write image_size=..."),
        ("data.augmentation.enabled", False, "data.augmentation has no key 'enabled'"),
        ("data.augmentation", "none", "data.augmentation='none' must be null, or an object"),
        ("gpu.memory", 8, "gpu has no key 'memory' (nearest: memory_mib"),
        ("tta.view", [], "tta has no key 'view' (nearest: views)"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(key, value, message, settings):
    set_in(settings, key, value)
    with pytest.raises(InputError) as caught:
        check_config(settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("group", GIVEN_BY_PROGRAM)
def test_what_the_program_gives_are_arguments_of_the_class(group, composed):
    node = composed[0]
    for part in group.split("."):
        node = node[part]
    names = {parameter.name for parameter in parameters_of(node["_target_"])}
    assert set(GIVEN_BY_PROGRAM[group]) <= names


def test_a_fold_must_exist(settings):
    check_config({**settings, "folds": 3, "fold": 2})
    with pytest.raises(InputError, match="fold=3 does not exist: folds=3 are counted from 0"):
        check_config({**settings, "folds": 3, "fold": 3})
    with pytest.raises(InputError, match="fold=0 is one of several"):
        check_config({**settings, "fold": 0})
