"""The export command in this process, and predictions with what it wrote."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gpuopt.config import compose_settings
from gpuopt.data import ImageFolder, PredictionImages
from gpuopt.engine.verification import read_report
from gpuopt.errors import InputError
from gpuopt.export import export
from gpuopt.predict import predict
from gpuopt.schema import to_export_config, to_predict_config

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def home(train, tmp_path_factory):
    """A trained run and its engine."""
    root = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuopt.engine.seal.default_cache_dir", lambda: root / "seal")
        words = ("enabled=true", "engine=onnx", "max_batch_size=32")
        train(
            root / "run",
            "model.name=test_resnet",
            f"cache_dir={root / 'cache'}",
            *(f"callbacks.engine_export.{word}" for word in words),
        )
        yield root


def exported(home, *words):
    is_named = any(word.startswith(("checkpoint=", "run=")) for word in words)
    own = () if is_named else (f"run={home / 'run'}",)
    words = (*own, "gpu=cpu", f"cache_dir={home / 'cache'}", *words)
    return export(to_export_config(compose_settings("export", list(words))))


def predicted(home, folder, *words):
    folder.mkdir()
    own = [f"run={home / 'run'}", "gpu=cpu", f"cache_dir={home / 'cache'}", "num_workers=0"]
    output = predict(to_predict_config(compose_settings("predict", [*own, *words])), folder)
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return np.array([[float(row[f"p_{i}"]) for i in range(10)] for row in rows])


def test_training_leaves_an_engine_of_the_best_weights_with_its_proof(home):
    path = home / "run" / "engines" / "onnx_fp32.onnx"
    sidecar = json.loads(path.with_name("onnx_fp32.onnx.json").read_text())
    assert sidecar["key"]["network"] == "test_resnet"
    assert sidecar["request"]["max_batch_size"] == 32
    report = read_report(path)
    assert report.accepted
    assert len(report.images) == 500
    assert {batch.batch_size for batch in report.batches} >= {1, 32}


def test_an_export_of_the_same_is_not_built_again(home, tmp_path, capsys):
    output = tmp_path / "other.onnx"
    assert exported(home, "engine=onnx", "max_batch_size=32", f"output={output}") == output
    out = capsys.readouterr().out
    assert "built in" not in out
    assert "onnx fp32 verified on 500 images" in out
    assert output.read_bytes() == (home / "run" / "engines" / "onnx_fp32.onnx").read_bytes()


def test_predictions_with_an_engine_are_those_of_the_model(home, tmp_path, capsys):
    eager = predicted(home, tmp_path / "eager", "engine=eager")
    path = home / "run" / "engines" / "onnx_fp32.onnx"
    capsys.readouterr()
    engine = predicted(home, tmp_path / "file", f"engine_path={path}")
    assert "engine=onnx (given: onnx fp32 verified on 500 images" in capsys.readouterr().out
    assert np.abs(engine - eager).max() < 1e-5
    turned = predicted(home, tmp_path / "turned", f"engine_path={path}", "tta=essential")
    plain = predicted(home, tmp_path / "plain", "engine=eager", "tta=essential")
    assert np.abs(turned - plain).max() < 1e-3  # one view's pixels are rounded
    assert (turned.argmax(1) == plain.argmax(1)).mean() > 0.99


def test_a_second_prediction_with_an_engine_builds_no_model(home, tmp_path):
    """Else each start imports timm and PyTorch's compiler, which takes most of its time."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    words = ("engine=onnx", "data=image_folder", f"data.root={tmp_path / 'images'}")
    first = predicted(home, tmp_path / "first", *words)
    (tmp_path / "gpuopt").symlink_to(home / "seal")  # the user's cache folder there
    own = [f"run={home / 'run'}", "gpu=cpu", f"cache_dir={home / 'cache'}", "num_workers=0"]
    code = (
        "import sys\nsys.modules.update(timm=None, torchvision=None, lightning=None)\n"
        "sys.modules.update({'torch._dynamo': None, 'torch._inductor': None})\n"
        "from gpuopt.predict import main\nmain()"
    )
    command = [sys.executable, "-c", code, *own, *words, f"output={tmp_path / 'second.csv'}"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "engine=onnx (given: onnx fp32 verified on 500 images" in done.stdout
    with (tmp_path / "second.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    second = np.array([[float(row[f"p_{i}"]) for i in range(10)] for row in rows])
    assert np.array_equal(first, second)


def test_a_file_of_weights_is_exported_without_a_run(home, tmp_path, capsys):
    weights = next((home / "run").rglob("*.ckpt"))
    path = exported(
        home,
        f"checkpoint={weights}",
        "engine=onnx",
        "max_batch_size=32",
        f"output={tmp_path / 'own.onnx'}",
    )
    assert path == tmp_path / "own.onnx"
    out = capsys.readouterr().out
    assert "not proved: that is done before its first use, or here with data.root=FOLDER" in out
    assert read_report(path) is None


def forgotten(home, tmp_path):
    """A run whose data were in a folder that is gone."""
    run = shutil.copytree(home / "run", tmp_path / "run", ignore=shutil.ignore_patterns("engines"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    root = str(tmp_path / "before")
    config["data"] = {"_target_": "gpuopt.data.ImageFolder", "root": root, "test_root": root}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_a_run_whose_data_have_moved_says_how_to_name_the_place(home, tmp_path):
    run = forgotten(home, tmp_path)
    with pytest.raises(InputError, match=r"images to prove .*before.* data\.root=FOLDER"):
        exported(home, f"run={run}", "engine=onnx", "max_batch_size=32")


def test_the_place_that_data_have_moved_to_is_given_by_a_folder_alone(
    home, tmp_path, monkeypatch, capsys
):
    """The same data set there is split as it was in training; other folders hold images."""
    run, opened = forgotten(home, tmp_path), []
    monkeypatch.setattr("gpuopt.session.engines.real_images", stub_of(opened))
    for name, labels in (("moved", ("a", "b")), ("photos", ("",))):
        for label in labels:
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(5):
                pixels = np.full((32, 32, 3), 10 * number + len(label), np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{number}.png")
        words = ("engine=onnx", "max_batch_size=32", f"data.root={tmp_path / name}")
        exported(home, f"run={run}", *words, f"output={tmp_path / name}.onnx")
        assert "onnx fp32 verified on 500 images" in capsys.readouterr().out
    assert opened == [ImageFolder, PredictionImages]


def stub_of(opened):
    """Note what is opened, and answer with as many images as a proof needs."""

    def read(source, least):
        opened.append(type(source))
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (least, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return images, tuple(map(str, range(least)))

    return read


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("engine=compiled",), "lives in a process and is no file"),
        (("engine=tensorrt",), "engine=tensorrt needs an NVIDIA GPU"),
        (("run=nowhere",), "run=nowhere does not exist"),
        (("checkpoint=nowhere.pth",), "checkpoint=nowhere.pth does not exist"),
        (("optimal_batch_size=9", "max_batch_size=8"), "is above max_batch_size=8"),
        (("max_batch_size=0",), "out of range"),
        (("engine=onxx",), "is not one of auto, eager"),
        (("provider=cuda", "engine=onnx"), "provider=cuda: the device is a CPU"),
    ],
)
def test_what_cannot_be_is_refused(home, words, reason):
    with pytest.raises(InputError, match=reason):
        exported(home, *words)


def test_a_run_and_a_checkpoint_are_two_models(home):
    words = [f"run={home / 'run'}", "checkpoint=x.pth", "gpu=cpu"]
    with pytest.raises(InputError, match="name two models"):
        export(to_export_config(compose_settings("export", words)))


def test_an_output_of_others_is_refused_before_anything_is_built(home, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is no engine of yours"):
        exported(home, f"output={tmp_path / 'thesis.txt'}", "engine=onnx", "max_batch_size=3")


def test_one_engine_is_not_several_models(home, tmp_path):
    from types import SimpleNamespace

    from gpuopt.predict_engine import prediction_engines

    config = to_predict_config(compose_settings("predict", ["engine_path=x.onnx", "gpu=cpu"]))
    ensemble = SimpleNamespace(paths=[1, 2])
    with pytest.raises(InputError, match="engine of one model, and the run has 2"):
        prediction_engines(config, tmp_path, ensemble, None, None, None, tell=print)
