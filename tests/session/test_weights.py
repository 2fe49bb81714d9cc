import copy
import math

import pytest
import torch

from gpuopt.errors import InputError
from gpuopt.model import Classifier
from gpuopt.session.weights import (
    describe_model,
    export_weights,
    load_described,
    load_weights,
    read_description,
)


@pytest.fixture(scope="module")
def checkpoint():
    model = Classifier("test_vit", 3)
    model.mean.fill_(10.0)
    return {"gpuopt": describe_model(model, ["a", "b", "c"], 32), "state_dict": model.state_dict()}


def test_a_model_comes_back_as_it_was(checkpoint):
    model, description = load_described(checkpoint, "x.ckpt")
    assert (description.model, description.image_size) == ("test_vit", 32)
    assert description.class_names == ("a", "b", "c")
    assert model.mean.flatten().tolist() == [10.0] * 3
    assert not model.training
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in checkpoint["state_dict"].items())


BAD = [
    ("model", None),
    ("model", ""),
    ("model", 5),
    ("class_names", None),
    ("class_names", 3),
    ("class_names", "abc"),
    ("class_names", []),
    ("class_names", ["a"]),
    ("class_names", ["a", "a", "b"]),
    ("class_names", ["a", None, "b"]),
    ("class_names", [str(i) for i in range(200_000)]),
    ("image_size", None),
    ("image_size", "32"),
    ("image_size", True),
    ("image_size", 0),
    ("image_size", 10**9),
    ("mean", None),
    ("mean", [1.0]),
    ("mean", [[1.0, 1.0, 1.0]]),
    ("mean", ["a", "b", "c"]),
    ("mean", [1.0, 1.0, math.nan]),
    ("std", [1.0, 1.0, 0.0]),
    ("std", [1.0, 1.0, 1.0, 1.0]),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_malformed_description_is_bad_input(checkpoint, key, value):
    broken = copy.deepcopy(checkpoint["gpuopt"])
    broken[key] = value
    with pytest.raises(InputError, match=rf"x\.ckpt describes .*: {key} "):
        read_description({"gpuopt": broken}, "x.ckpt")


@pytest.mark.parametrize("key", ["model", "class_names", "image_size", "mean", "std"])
def test_a_missing_key_is_bad_input(checkpoint, key):
    broken = {name: value for name, value in checkpoint["gpuopt"].items() if name != key}
    with pytest.raises(InputError, match=f"{key} is missing"):
        read_description({"gpuopt": broken}, "x.ckpt")


@pytest.mark.parametrize("found", [None, [], {}, {"schema": 2}, "text"])
def test_a_foreign_checkpoint_is_bad_input(found):
    with pytest.raises(InputError, match="not written by gpuopt"):
        read_description({"gpuopt": found}, "x.ckpt")


@pytest.mark.parametrize("name", ["no_such_model", "test_vit.no_such_tag"])
def test_a_model_that_timm_does_not_know_is_bad_input(checkpoint, name):
    with pytest.raises(InputError):
        load_described({**checkpoint, "gpuopt": {**checkpoint["gpuopt"], "model": name}}, "x.ckpt")


def test_weights_that_do_not_fit_are_bad_input(checkpoint):
    model, state = Classifier("test_vit", 3), checkpoint["state_dict"]
    first = next(iter(state))
    for broken in (
        None,
        [],
        {**state, first: 5},
        {**state, 7: state[first]},
        {key: value for key, value in state.items() if key != first},
        {**state, first: state[first].to("meta")},
        Classifier("test_vit", 4).state_dict(),
    ):
        with pytest.raises(InputError, match=r"x\.ckpt holds"):
            load_weights(model, {"state_dict": broken}, "x.ckpt")


def test_exported_weights_are_timms_own(checkpoint, tmp_path):
    import timm
    from safetensors import safe_open
    from safetensors.torch import load_file

    model, _ = load_described(checkpoint, "x.ckpt")
    export_weights(model, ["ä", "b", "c"], tmp_path / "m.safetensors")
    network = timm.create_model("test_vit", num_classes=3)
    network.load_state_dict(load_file(tmp_path / "m.safetensors"))
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["class_names"] == '["ä", "b", "c"]'
