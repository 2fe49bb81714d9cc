import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gpuopt.configuration import ALLOWED_PACKAGES, check_target, parameters_of, signatures
from gpuopt.errors import InputError

CONF = Path(__file__).parents[2] / "conf"


def nodes_with_target(content):
    if isinstance(content, dict):
        if "_target_" in content:
            yield content
        for value in content.values():
            yield from nodes_with_target(value)


def shipped():
    """Every distinct class that a shipped file names."""
    paths = [path for path in CONF.rglob("*.yaml") if "hydra" not in path.relative_to(CONF).parts]
    contents = (yaml.safe_load(path.read_text("utf-8")) for path in paths)  # hydra/ is Hydra's
    return sorted({node["_target_"] for content in contents for node in nodes_with_target(content)})


@pytest.mark.parametrize("target", shipped())
def test_reading_the_source_agrees_with_the_class(target):
    module, _, name = target.rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    expected = {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in parameters.values()
    }
    assert {p.name: p.required for p in parameters_of(target)} == expected


def test_nothing_heavy_is_imported():
    code = (
        "import sys\n"
        "from gpuopt.configuration import parameters_of\n"
        "assert all(parameters_of(target) for target in sys.argv[1:])\n"
        "heavy = {'torch', 'lightning', 'timm', 'hydra', 'omegaconf'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *shipped()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Read sources from a folder in place of gpuopt: `package({"shapes": "class A: ..."})`."""
    monkeypatch.setattr(signatures, "_PACKAGE", tmp_path)

    def write(sources):
        for name, source in sources.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, "utf-8")
        clear()

    def clear():
        signatures._parse.cache_clear()
        parameters_of.cache_clear()

    yield write
    clear()


def found_in(target):
    return {p.name: (p.annotation, p.required) for p in parameters_of(target)}


def test_options_are_followed_through_keyword_arguments(package):
    package(
        {
            "base": "class Base:\n    def __init__(self, *, size: int, seed: int = 0): ...\n",
            "leaf": "from gpuopt.base import Base\n"
            "class Leaf(Base):\n"
            "    def __init__(self, root: str, seed: float = 1.0, **options): ...\n",
        }
    )
    assert found_in("gpuopt.leaf.Leaf") == {
        "size": ("int", True),
        "seed": ("float", False),
        "root": ("str", True),
    }


def test_a_class_that_hands_nothing_on_hides_its_base(package):
    package(
        {
            "shapes": "class Base:\n    def __init__(self, size): ...\n"
            "class Closed(Base):\n    def __init__(self, name='x'): ...\n"
            "class Same(Base):\n    pass\n"
            "class Foreign(Exception):\n    pass\n"
        }
    )
    assert found_in("gpuopt.shapes.Closed") == {"name": ("", False)}
    assert found_in("gpuopt.shapes.Same") == {"size": ("", True)}
    assert found_in("gpuopt.shapes.Foreign") == {}


def test_fields_of_dataclasses_are_arguments(package):
    package(
        {
            "values": "from dataclasses import dataclass, field\nfrom typing import ClassVar\n"
            "@dataclass\nclass Base:\n    width: int\n    depth: int = 1\n"
            "@dataclass(frozen=True)\nclass Wide(Base):\n"
            "    known: ClassVar[int] = 3\n    depth: float = 2.0\n    names: list[str] = field()\n"
            "    @property\n    def area(self): ...\n"
            "class Plain:\n    width: int\n"
        }
    )
    assert found_in("gpuopt.values.Wide") == {
        "width": ("int", True),
        "depth": ("float", False),
        "names": ("list[str]", False),
    }
    assert found_in("gpuopt.values.Plain") == {}


def test_names_are_followed_through_re_exports(package):
    package(
        {
            "data/__init__": "from gpuopt.data.inner import Hidden as Shown\n",
            "data/inner": "from gpuopt.data.deep import Hidden\n",
            "data/deep": "class Hidden:\n    def __init__(self, a: int | None): ...\n",
        }
    )
    assert found_in("gpuopt.data.Shown") == {"a": ("int | None", True)}
    with pytest.raises(InputError, match="names no class"):
        parameters_of("gpuopt.data.Hidden2")


def test_a_named_type_is_replaced_by_what_it_stands_for(package):
    package(
        {
            "kinds": "from typing import Literal\nMode = Literal['off', 'on']\n",
            "user": "from gpuopt.kinds import Mode\n"
            "class User:\n"
            "    def __init__(self, mode: Mode = 'on', other: Mode | None = None): ...\n",
        }
    )
    assert found_in("gpuopt.user.User") == {
        "mode": ("Literal['off', 'on']", False),
        "other": ("Literal['off', 'on'] | None", False),
    }


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Linear",
        "gpuopt_evil.Thing",
        "gpuopt",
        "gpuopt.config.shutil.rmtree",
        "gpuopt.data.open_images",
        "gpuopt./etc/passwd.Thing",
        "gpuopt..Thing",
        "lightning.pytorch.callbacks.model_checkpoint.os.system",
        "lightning.pytorch.callbacks.checkpoint.Checkpoint",
        "lightning.pytorch.Trainer",
        "torchvision.transforms.functional.os.system",
        "torchvision.transforms.functional",
        "",
        None,
    ],
)
def test_only_classes_of_the_allowed_packages_pass(target):
    with pytest.raises(InputError, match=r"data\._target_=.* is refused: only classes of gpuopt"):
        check_target({"_target_": target}, "data")


@pytest.mark.parametrize("target", ["gpuopt.Foo", "gpuopt.data.Digit", "gpuopt.nowhere.Digits"])
def test_a_class_that_is_not_there_is_refused(target):
    with pytest.raises(InputError, match="names no class of gpuopt"):
        check_target({"_target_": target}, "data")


def test_classes_of_other_allowed_packages_are_bound_later():
    assert "lightning.pytorch.callbacks" in ALLOWED_PACKAGES
    check_target({"_target_": "lightning.pytorch.callbacks.Timer", "duration": "1"}, "callbacks.t")


EVIL = {"_target_": "os.system", "command": "true"}


@pytest.mark.parametrize(
    "value",
    [EVIL, [EVIL], {"inside": EVIL}, [[{"deep": [EVIL]}]], ({"a": {"b": EVIL}},)],
)
@pytest.mark.parametrize(
    "outer",
    [
        {"_target_": "gpuopt.data.Digits"},
        {"_target_": "lightning.pytorch.callbacks.Timer"},
    ],
)
def test_targets_are_found_however_deep_they_lie(outer, value):
    key = "augmentation" if "gpuopt" in outer["_target_"] else "duration"
    with pytest.raises(InputError):
        check_target({**outer, key: value}, "data")
    anything = {"_target_": "gpuopt.callbacks.GpuStats", "devices": [value]}
    with pytest.raises(InputError, match=r"callbacks\.x\.devices.*is refused"):
        check_target(anything, "callbacks.x")


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_", "_call_"])
def test_keys_of_hydras_own_are_refused(key):
    for target in ("gpuopt.model.AdamW", "lightning.pytorch.callbacks.Timer"):
        with pytest.raises(InputError, match=f"has no key '{key}'"):
            check_target({"_target_": target, key: True}, "x")


@pytest.mark.parametrize(
    ("group", "target", "key", "value", "message"),
    [
        ("optimizer", "gpuopt.model.AdamW", "beta3", 1.0, "optimizer has no key 'beta3' (nearest"),
        ("optimizer", "gpuopt.model.AdamW", "beta1", "0.9", "optimizer.beta1='0.9' is not of type"),
        ("optimizer", "gpuopt.model.AdamW", "beta1", True, "beta1=True is not of type float"),
        ("optimizer", "gpuopt.model.AdamW", "beta1", None, "beta1=None is not of type float"),
        ("optimizer", "gpuopt.model.AdamW", "beta1", [0.9], "beta1=[0.9] is not of type float"),
        ("optimizer", "gpuopt.model.AdamW", "enabled", True, "has no key 'enabled'"),
        ("model", "gpuopt.model.Classifier", "pretrained", 1, "pretrained=1 is not of type bool"),
        ("model", "gpuopt.model.Classifier", "name", 5, "model.name=5 is not of type str"),
        ("model", "gpuopt.model.Classifier", "optimizer", "adamw", "must be null, or an object"),
        ("data", "gpuopt.data.Digits", "cache", "maybe", "is not one of off, on, auto"),
        ("data", "gpuopt.data.Digits", "cache", True, "cache=True is not one of off, on, auto"),
        ("data", "gpuopt.data.Digits", "class_weights", None, "is not one of none, balanced"),
        ("data", "gpuopt.data.Digits", "augmentation", "none", "must be null, or an object with"),
        ("data", "gpuopt.data.Digits", "augmentation", False, "must be null, or an object with"),
        ("data", "gpuopt.data.Digits", "augmentation", {"flip": True}, "must be null, or an obj"),
        ("data", "gpuopt.data.Digits", "seed", 1.5, "data.seed=1.5 is not of type int"),
    ],
)
def test_wrong_keys_and_types_are_named(group, target, key, value, message):
    with pytest.raises(InputError) as caught:
        check_target({"_target_": target, key: value}, group)
    assert message in str(caught.value)
    assert str(caught.value).startswith(group)


@pytest.mark.parametrize(
    ("target", "key", "value"),
    [
        ("gpuopt.model.AdamW", "beta1", 0),  # a whole number is a number
        ("gpuopt.model.Classifier", "drop_path_rate", None),
        ("gpuopt.model.Classifier", "channels_last", "auto"),
        ("gpuopt.model.Classifier", "channels_last", False),
        ("gpuopt.data.Digits", "cache", "off"),
        ("gpuopt.data.Digits", "cache_dir", "somewhere"),
        ("gpuopt.data.Digits", "augmentation", None),
        ("gpuopt.data.Digits", "augmentation", {"_target_": "gpuopt.data.Augmentation"}),
        ("gpuopt.callbacks.GpuStats", "devices", []),
    ],
)
def test_right_values_pass(target, key, value):
    check_target({"_target_": target, key: value}, "x")


def test_nested_objects_are_checked_with_their_place():
    node = {
        "_target_": "gpuopt.data.Digits",
        "augmentation": {"_target_": "gpuopt.data.Augmentation", "flap": True},
    }
    with pytest.raises(InputError, match=r"data\.augmentation has no key 'flap' \(nearest: flip"):
        check_target(node, "data")
