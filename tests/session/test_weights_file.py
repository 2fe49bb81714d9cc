import json
import math

import pytest
import timm
import torch
from safetensors.torch import save_file

from gpuopt.errors import InputError
from gpuopt.model import Classifier
from gpuopt.session.weights import describe_model, export_weights
from gpuopt.session.weights_file import load_network


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Classifier("test_resnet", 7).eval()
    model.mean.fill_(100.0)
    return model


def same(found, model):
    own, other = model.backbone.state_dict(), found.network.backbone.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)


def test_a_checkpoint_of_gpuopt_says_all_itself(model, tmp_path):
    names = [f"class {i}" for i in range(7)]
    content = {"state_dict": model.state_dict(), "gpuopt": describe_model(model, names, 48)}
    torch.save(content, tmp_path / "best.ckpt")
    found = load_network(tmp_path / "best.ckpt")
    assert same(found, model)
    assert (found.image_size, found.num_classes, found.network.name) == (48, 7, "test_resnet")
    assert found.network.mean == (100.0,) * 3
    assert found.description.class_names == tuple(names)
    larger = load_network(tmp_path / "best.ckpt", image_size=64)
    assert larger.image_size == larger.description.image_size == 64
    same_again = {"model": "test_resnet.r160_in1k", "num_classes": 7}
    assert same(load_network(tmp_path / "best.ckpt", **same_again), model)
    for wrong in ({"model": "test_vit"}, {"num_classes": 8}):
        ((key, value),) = wrong.items()
        with pytest.raises(InputError, match=f"{key}={value}: .*says itself"):
            load_network(tmp_path / "best.ckpt", **wrong)


def test_safetensors_of_gpuopt_name_their_model(model, tmp_path):
    export_weights(model, list("abcdefg"), tmp_path / "w.safetensors")
    found = load_network(tmp_path / "w.safetensors")
    assert same(found, model)
    assert found.network.mean == pytest.approx((100.0,) * 3)
    assert found.num_classes == 7
    assert found.image_size == timm.create_model("test_resnet").pretrained_cfg["input_size"][-1]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"model.backbone.{k}": v for k, v in state.items()}},
    ],
)
def test_other_programs_files_need_the_models_name(model, tmp_path, wrap):
    path = tmp_path / "w.pth"
    torch.save(wrap(model.backbone.state_dict()), path)
    with pytest.raises(InputError, match="does not name its model: give model="):
        load_network(path)
    found = load_network(path, model="test_resnet", image_size=32)
    assert same(found, model)
    assert (found.num_classes, found.image_size) == (7, 32)
    assert load_network(path, model="test_resnet", num_classes=7).num_classes == 7


def test_weights_of_another_model_are_one_line(model, tmp_path):
    torch.save(model.backbone.state_dict(), tmp_path / "w.pth")
    for options in ({"model": "test_vit"}, {"model": "test_resnet", "num_classes": 8}):
        with pytest.raises(InputError, match="another model than") as caught:
            load_network(tmp_path / "w.pth", **options)
        assert "\n" not in str(caught.value)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_text("no weights")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    torch.save({"x": torch.ones(2)}, tmp_path / "odd.pth")
    torch.save({"head.weight": torch.tensor(1.0)}, tmp_path / "scalar.pth")
    for name, reason in {
        "w.safetensors": "no file of weights, or damaged",
        "empty.pth": "holds no weights",
        "odd.pth": "num_classes=N",
        "scalar.pth": "num_classes=N",
    }.items():
        with pytest.raises(InputError, match=reason):
            load_network(tmp_path / name, model="test_resnet")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return print, ("boom",)

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    with pytest.raises(InputError, match=r"refused|damaged"):
        load_network(tmp_path / "w.pth", model="test_resnet")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("mean", [1, "x", 3]),
        ("mean", [0.5, math.nan, 0.5]),
        ("mean", [10**400, 0, 0]),
        ("std", [0.2, 0.0, 0.2]),
        ("std", [0.2, math.inf, 0.2]),
        ("std", []),
    ],
)
def test_wrong_metadata_is_one_line(model, tmp_path, key, values):
    path = tmp_path / "w.safetensors"
    metadata = {"model": "test_resnet", key: json.dumps(values)}
    state = {name: value.contiguous() for name, value in model.backbone.state_dict().items()}
    save_file(state, path, metadata)
    with pytest.raises(InputError, match=f"no three numbers for {key}"):
        load_network(path)
