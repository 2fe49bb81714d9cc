"""Every shipped option composes and binds, and every setting is read."""

import ast
import copy
import functools
import importlib
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore

import gpuopt.data
from gpuopt import config
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.schema import (
    CONF_DIR,
    BenchmarkConfig,
    CheckConfig,
    Compile,
    DiagnoseConfig,
    FindBatchSizeConfig,
    Logging,
    MonitorConfig,
    Precision,
    PredictConfig,
    ProfilerConfig,
    RecommendTtaConfig,
    TrainConfig,
    TrainerValues,
)
from gpuopt.tta import TestTimeAugmentation

PACKAGE = Path(gpuopt.data.__file__).parents[1]
# `hydra` holds Hydra's own settings.
GROUPS = sorted({path.name for path in CONF_DIR.iterdir() if path.is_dir()} - {"hydra"})
OPTIONS = [(path.parent.name, path.stem) for path in sorted(CONF_DIR.glob("*/*.yaml"))]
OPTIONS = [option for option in OPTIONS if option[0] in GROUPS]
# Callbacks come together, in `default`; the other files are its parts.
PARTS = [name for group, name in OPTIONS if group == "callbacks" and name != "default"]
COMPOSABLE = [(group, name) for group, name in OPTIONS if name not in PARTS]
ALL_GROUPS = {
    "callbacks",
    "data",
    "experiment",
    "gpu",
    "logger",
    "mode",
    "model",
    "optimizer",
    "precision",
    "scheduler",
    "trainer",
    "tta",
}


@functools.cache
def compose_settings(command, *words):
    """Compose; what several tests look at only once."""
    return config.compose_settings(command, list(words))


def read(group, name):
    return yaml.safe_load((CONF_DIR / group / f"{name}.yaml").read_text("utf-8"))


def objects_in(content):
    """Every mapping with a `_target_`, however deep."""
    if isinstance(content, dict):
        if "_target_" in content:
            yield content
        for value in content.values():
            yield from objects_in(value)


def class_of(node):
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def snake(name):
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def test_composing_copies_and_changes_nothing_in_hydras_store():
    store = ConfigStore.instance()
    assert compose_settings("train", "seed=5")["seed"] == 5
    assert copy.deepcopy(store) is store
    assert store.load("train_schema.yaml").node.seed != 5


def test_no_group_is_forgotten():
    assert set(GROUPS) == ALL_GROUPS


@pytest.mark.parametrize(("group", "name"), COMPOSABLE)
def test_every_option_composes(group, name):
    settings = compose_settings("train", f"{group}={name}")
    if group in ("mode", "experiment"):
        assert settings[group] == name
    elif group in ("precision", "tta", "logger"):
        assert settings[group]["name"] == name


@pytest.mark.parametrize(
    ("group", "name"), [o for o in COMPOSABLE if o[0] in ("data", "gpu", "precision", "tta")]
)
def test_every_option_that_predict_shares_composes(group, name):
    if group == "gpu" and name not in ("auto", "cpu", "rtx3060"):
        return  # the same files as for train
    assert compose_settings("predict", f"{group}={name}")[group]


@pytest.mark.parametrize(
    ("group", "name"),
    [o for o in COMPOSABLE if o[0] in ("data", "precision") or o == ("gpu", "cpu")],
)
def test_every_option_that_benchmark_shares_composes(group, name):
    assert compose_settings("benchmark", f"{group}={name}")[group]


@pytest.mark.parametrize(
    ("group", "name"),
    # Of the cards a few: the same files as for train.
    [
        o
        for o in COMPOSABLE
        if o[0] in ("model", "optimizer", "precision") or o in [("gpu", "cpu"), ("gpu", "rtx3060")]
    ],
)
def test_every_option_that_check_shares_composes(group, name):
    assert compose_settings("check", "report=fit", f"{group}={name}")[group]


@pytest.mark.parametrize(
    ("group", "name"),
    [o for o in COMPOSABLE if o[0] == "precision" or o in [("gpu", "cpu"), ("gpu", "rtx3060")]],
)
def test_every_option_that_the_recommender_shares_composes(group, name):
    assert compose_settings("recommend_tta", f"{group}={name}")[group]


def test_the_recommender_judges_every_shipped_policy():
    names = {name for group, name in OPTIONS if group == "tta"}
    assert set(compose_settings("recommend_tta")["policies"]) == names


@pytest.mark.parametrize(
    ("group", "name"),
    # Of the cards a few: the same files as for train.
    [
        o
        for o in COMPOSABLE
        if o[0] in ("data", "experiment", "mode") or o in [("gpu", "cpu"), ("gpu", "rtx3060")]
    ],
)
@pytest.mark.parametrize("command", ["find_batch_size", "tune"])
def test_every_option_that_takes_trains_settings_composes(command, group, name):
    ours, trains = (compose_settings(name_, f"{group}={name}") for name_ in (command, "train"))
    trains = {**trains, "gpu": {**trains["gpu"], "memory_gib": None}}
    differing = {key for key in trains if ours[key] != trains[key]}
    assert differing == set()


@pytest.mark.parametrize(
    ("group", "name"),
    [
        o
        for o in COMPOSABLE
        if o[0] in ("experiment", "mode") or o in [("data", "digits"), ("gpu", "cpu")]
    ],
)
def test_every_option_that_a_diagnosis_shares_composes(group, name):
    ours, trains = (
        compose_settings(command, f"{group}={name}") for command in ("diagnose", "train")
    )
    assert {key for key in trains if ours[key] != trains[key]} == set()


@pytest.mark.parametrize(
    ("group", "name"), [o for o in COMPOSABLE if o[0] in ("data", "mode") or o == ("gpu", "cpu")]
)
def test_the_profiler_profiles_what_is_trained(group, name):
    ours, trains = (compose_settings(c, f"{group}={name}") for c in ("profiler", "train"))
    differing = {key for key in trains if ours[key] != trains[key]}
    assert differing == {"folds"}  # which counts only with fold=


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_class_is_there_and_takes_its_keys(group, name):
    for node in objects_in(read(group, name)):
        keys = {key: value for key, value in node.items() if key not in ("_target_", "enabled")}
        inspect.signature(class_of(node)).bind_partial(**keys)


def test_the_callbacks_are_all_in_the_default():
    assert sorted(read("callbacks", "default")["defaults"]) == PARTS
    assert sorted(compose_settings("train")["callbacks"]) == PARTS
    for name in PARTS:
        assert list(read("callbacks", name)) == [name]


@pytest.mark.parametrize("name", [name for name in PARTS if name != "checkpoint"])
def test_a_single_callback_is_no_choice(name):
    with pytest.raises(InputError, match=r"callbacks\.checkpoint is missing"):
        compose_settings("train", f"callbacks={name}")


# The key that people type is shorter than the class, which is one of several checkpoints.
NAMED_SHORTER = {"checkpoint": "durable_checkpoint", "tensorrt_export": "engine_export"}


@pytest.mark.parametrize("name", PARTS)
def test_a_callback_is_named_like_its_module_and_class(name):
    stem = NAMED_SHORTER.get(name, name)
    assert (PACKAGE / "callbacks" / f"{stem}.py").is_file()
    kind = class_of(read("callbacks", name)[name])
    assert kind.__module__ == f"gpuopt.callbacks.{stem}"
    assert snake(kind.__name__) == stem


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "data"])
def test_a_data_set_is_named_like_its_module_and_class(name):
    kind = class_of(read("data", name))
    assert issubclass(kind, ImageDataModule)
    assert kind.__module__ == f"gpuopt.data.{name}"
    assert snake(kind.__name__) == name


def test_every_data_set_has_an_option():
    public = [getattr(gpuopt.data, name) for name in gpuopt.data.__all__]
    kinds = {
        kind for kind in public if isinstance(kind, type) and issubclass(kind, ImageDataModule)
    } - {ImageDataModule}
    assert kinds == {class_of(read(group, name)) for group, name in OPTIONS if group == "data"}


# --- every setting is read -------------------------------------------------------------------


def chain(node):
    """Word a read access as dots: `config["trainer"].devices` is `config.trainer.devices`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{chain(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return f"{chain(node.value)}.{node.slice.value}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        key = node.args[0]
        if node.func.attr == "get" and isinstance(key, ast.Constant):
            return f"{chain(node.func.value)}.{key.value}"
    return "?"


def accesses(*folders):
    found = set()
    for folder in folders:
        for path in (PACKAGE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(getattr(node, "ctx", None), ast.Store):
                    found.add(chain(node))
    return found


@pytest.fixture(scope="module")
def reads():
    return accesses("")


# A label for people: what an experiment does is in the settings that its file overrides.
LABELS = {"experiment"}


@pytest.mark.parametrize(
    "kind",
    [
        BenchmarkConfig,
        TrainConfig,
        PredictConfig,
        CheckConfig,
        DiagnoseConfig,
        FindBatchSizeConfig,
        MonitorConfig,
        ProfilerConfig,
        RecommendTtaConfig,
    ],
)
def test_every_setting_is_read(kind, reads):
    # Composed settings are called `config` wherever they are read.
    unread = {field.name for field in fields(kind) if f"config.{field.name}" not in reads}
    assert unread - LABELS == set()


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("trainer", TrainerValues),
        ("precision", Precision),
        ("compile", Compile),
        ("logger", Logging),
    ],
)
def test_every_value_of_a_group_is_read(group, kind, reads):
    for field in fields(kind):
        assert f"config.{group}.{field.name}" in reads, f"nothing reads {group}.{field.name}"


# Facts about a card that are kept for reports; the guide's row is for reference only.
FACTS = {"architecture", "bf16_native", "fp8", "seed", "sm_count", "tdp_w"}


@pytest.mark.parametrize(
    ("kind", "folders", "facts"),
    [
        (Gpu, ("hardware", "measure", "session"), FACTS),
        (TestTimeAugmentation, ("tta", "session"), set()),
    ],
)
def test_every_field_of_a_value_is_read(kind, folders, facts):
    last = {access.rpartition(".")[2] for access in accesses(*folders) if "." in access}
    assert {field.name for field in fields(kind)} - last - facts == set()


@pytest.mark.parametrize(
    "kind",
    sorted(
        {class_of(node) for group, name in OPTIONS for node in objects_in(read(group, name))},
        key=lambda kind: kind.__name__,
    ),
)
def test_every_argument_of_a_built_class_is_read(kind):
    """By its own constructor, or for a dataclass by its own methods or the model."""
    if is_dataclass(kind):
        source = inspect.getsource(kind) + (PACKAGE / "model/classifier.py").read_text("utf-8")
        for field in fields(kind):
            assert f".{field.name}" in source, field.name
        return
    for owner in kind.__mro__:
        if not owner.__module__.startswith("gpuopt.") or "__init__" not in vars(owner):
            continue
        init = ast.parse(textwrap.dedent(inspect.getsource(owner.__init__))).body[0]
        used = {node.id for node in ast.walk(init) if isinstance(node, ast.Name)}
        named = [argument.arg for argument in (*init.args.args, *init.args.kwonlyargs)]
        assert set(named) - used <= {"self"}, f"{owner.__name__} ignores its arguments"
