"""The shipped data options bind to their classes and name every option that a user may set."""

import inspect
from pathlib import Path

import pytest
import yaml

import gpuopt.data
from gpuopt.data import Augmentation

CONF = Path(__file__).parents[2] / "conf" / "data"
GIVEN_BY_THE_COMMAND = {
    "image_size": 16,
    "micro_batch_size": 4,
    "global_batch_size": 8,
    "num_workers": 0,
    "prefetch_factor": 2,
    "pin_memory": False,
    "seed": 0,
    "evaluation_batch_size": 8,
    "folds": None,
    "fold": None,
    "cache_dir": None,
}
# Digits lie in memory and can all be read, so these would do nothing.
UNUSED = {"digits": {"cache", "cache_limit_gib", "max_rejected_ratio"}}


@pytest.mark.parametrize("name", ["digits", "image_folder", "image_csv"])
def test_options_are_complete_and_bind(name):
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8"))
    kind = getattr(gpuopt.data, options.pop("_target_").removeprefix("gpuopt.data."))
    augmentation = options.pop("augmentation")
    assert augmentation.pop("_target_") == "gpuopt.data.Augmentation"
    assert set(augmentation) == set(inspect.signature(Augmentation).parameters)
    expected = set(inspect.signature(kind).parameters) - set(GIVEN_BY_THE_COMMAND)
    assert set(options) == expected - {"augmentation"} - UNUSED.get(name, set())
    assert isinstance(options["quickstart_image_size"], int)
    if options.get("root", "") is None:
        options["root"] = "somewhere"
    data = kind(**options, **GIVEN_BY_THE_COMMAND, augmentation=Augmentation(**augmentation))
    assert data.image_size == 16


def test_every_key_has_a_comment():
    for name in ("digits", "image_folder", "image_csv"):
        for line in (CONF / f"{name}.yaml").read_text("utf-8").splitlines():
            if line and not line.startswith("#") and "_target_" not in line:
                assert " # " in line or line == "augmentation:", line
