"""Runs that fit temperatures, of one training and of folds, and predictions that apply them."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from gpuopt.fold_runs import train_folds
from gpuopt.measure import apply_temperature, fit_temperature, log_of_probabilities
from gpuopt.predict import predict
from gpuopt.run import RunFolder, resumed_settings
from gpuopt.schema import to_predict_config
from gpuopt.storage import sha256_of
from gpuopt.storage.checkpoint import read_checkpoint

ON = "use_calibration=true"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Settings for 150 images of four digits to train and validate on, and 50 to test."""
    root = tmp_path_factory.mktemp("digits")
    found = load_digits(n_class=4)
    for number, (pixels, label) in enumerate(zip(found.images[:200], found.target, strict=False)):
        folder = root / ("train", "test")[number >= 150] / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 15).astype(np.uint8))
        image.resize((32, 32)).save(folder / f"{number}.png")
    return (
        "data=image_folder",
        f"data.root={root}",
        "data.validation_ratio=0.4",
        "data.cache=off",
        "num_workers=0",
        "micro_batch_size=32",
        "global_batch_size=32",
        "tta=legacy",
    )


class Killed(BaseException):
    """What no code of ours reacts to."""


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def shares_of(rows):
    own = [[float(v) for k, v in row.items() if k.startswith("p_")] for row in rows]
    return np.array(own, np.float32)


def targets_of(rows):
    return np.array([int(row["target"]) for row in rows])


def predicted(run, folder, *words):
    folder.mkdir(exist_ok=True)
    settings = compose_settings("predict", ["gpu=cpu", "num_workers=0", f"run={run}", *words])
    return read(predict(to_predict_config(settings), folder))


def temperatures(run):
    content = json.loads((run / "calibration.json").read_text())
    return {policy["name"]: policy["temperature"] for policy in content["policies"]}


@pytest.fixture(scope="module")
def whole(train, words, tmp_path_factory):
    """A calibrated run of one training, and its results."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train(folder, *words, ON)


@pytest.fixture(scope="module")
def raw(whole, tmp_path_factory):
    """What its model says about the test images, uncalibrated, with TTA and without."""
    folder = tmp_path_factory.mktemp("raw")
    return {
        tta: predicted(whole[0], folder / tta, f"tta={tta}", "use_calibration=false")
        for tta in ("legacy", "none")
    }


def test_the_run_holds_temperatures_a_picture_and_the_choice(whole):
    folder, results = whole
    content = json.loads((folder / "calibration.json").read_text())
    assert content == json.loads((folder / "results.json").read_text())["calibration"]
    assert content["weights_sha256"] == [sha256_of(folder / "checkpoints/best.ckpt")]
    assert content["images"] == results["data"]["validation_images"]
    assert content["test_images"] == results["data"]["test_images"]
    assert [policy["name"] for policy in content["policies"]] == ["legacy", "none"]
    for policy in content["policies"]:
        assert policy["is_accepted"]
        assert policy["after"]["nll"]["value"] < policy["before"]["nll"]["value"]
    assert (folder / "reliability.png").read_bytes().startswith(b"\x89PNG")
    choice = next(c for c in results["choices"] if c["key"] == "use_calibration")
    assert (choice["value"], choice["evidence"]) == (True, "measured")


def test_what_is_said_of_the_test_images_is_true_of_what_predict_writes(whole, raw, tmp_path):
    content = json.loads((whole[0] / "calibration.json").read_text())
    for policy in content["policies"]:
        tta = policy["name"]
        rows = predicted(whole[0], tmp_path / tta, f"tta={tta}")
        for key, own in (("before", raw[tta]), ("after", rows)):
            sure = shares_of(own)[np.arange(len(own)), targets_of(own)]
            nll = policy["test"][key]["nll"]["value"]
            assert -np.log(sure).mean() == pytest.approx(nll, abs=1e-4)


@pytest.mark.parametrize(
    ("tta", "taken"), [("legacy", "legacy"), ("none", "none"), ("essential", "none")]
)
def test_predict_applies_the_temperature_of_its_views_and_keeps_the_classes(
    whole, raw, tmp_path, capsys, tta, taken
):
    temperature = temperatures(whole[0])[taken]
    rows = predicted(whole[0], tmp_path / "p", f"tta={tta}")
    screen = capsys.readouterr().out
    assert f"use_calibration=True (measured: temperature {temperature:.3f}" in screen
    assert ("the one without TTA, as none was fitted" in screen) == (tta != taken)
    own = raw.get(tta) or predicted(whole[0], tmp_path / "r", f"tta={tta}", "use_calibration=false")
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in own]
    np.testing.assert_allclose(
        shares_of(rows), apply_temperature(shares_of(own), temperature), rtol=2e-5, atol=1e-7
    )
    assert not np.allclose(shares_of(rows), shares_of(own), atol=1e-3)


def test_the_runs_own_files_hold_what_the_model_says(whole, raw):
    rows = read(whole[0] / "predictions.csv")
    np.testing.assert_allclose(shares_of(rows), shares_of(raw["legacy"]), rtol=1e-4, atol=1e-7)


def test_a_run_killed_before_its_calibration_goes_on_to_it(
    train, words, whole, tmp_path, monkeypatch, capsys
):
    def killed(*_, **__):
        raise Killed

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("gpuopt.session.calibrating.write_json", killed)
        with pytest.raises(Killed):
            train(run, *words, ON)
    assert not (run / "calibration.json").exists()
    predicted(run, tmp_path / "p")
    assert f"not calibrated: the run has not come to it yet; go on with resume={run}" in (
        capsys.readouterr().out.replace("\n", "")
    )
    before = (run / "checkpoints/best.ckpt").read_bytes()
    train(run, *words, ON)
    assert (run / "checkpoints/best.ckpt").read_bytes() == before
    assert temperatures(run) == temperatures(whole[0])


def test_calibration_is_switched_on_and_off_later_without_training(
    train, words, whole, compose, tiny, tmp_path
):
    run = tmp_path / "run"
    train(run, *words)
    assert not (run / "calibration.json").exists()
    before = (run / "checkpoints/best.ckpt").read_bytes()
    settings = compose(*tiny, *words, ON)
    assert resumed_settings(settings, run, ["use_calibration"])["use_calibration"] is True
    assert resumed_settings(settings, run, ["seed"])["use_calibration"] is False
    train(run, *words, ON)
    assert temperatures(run) == temperatures(whole[0])
    assert (run / "checkpoints/best.ckpt").read_bytes() == before
    train(run, *words)
    assert not (run / "calibration.json").exists()
    assert not (run / "reliability.png").exists()
    with pytest.raises(InputError, match=r"has no calibration\.json"):
        predicted(run, tmp_path / "p", ON)


def test_the_calibration_of_other_weights_is_refused(whole, tmp_path):
    """As a run leaves it that was trained further and stopped before it was calibrated again."""
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    state = read_checkpoint(run / "checkpoints/best.ckpt")
    state["state_dict"]["backbone.head.bias"] += 1.0
    for path in run.glob("checkpoints/*"):
        path.unlink()
    torch.save(state, run / "checkpoints/best.ckpt")
    digest, size = sha256_of(run / "checkpoints/best.ckpt"), (run / "checkpoints/best.ckpt").stat()
    record = {"size_bytes": size.st_size, "sha256": digest, "step": 1, "epoch": 1}
    sidecar = json.dumps({"schema": 1, "files": [record]})
    (run / "checkpoints/best.ckpt.json").write_text(sidecar)
    for use in ("auto", "true"):
        with pytest.raises(InputError, match="fitted for other weights than these"):
            predicted(run, tmp_path / use, f"use_calibration={use}")
    assert predicted(run, tmp_path / "raw", "use_calibration=false")


@pytest.fixture(scope="module")
def start(tiny, compose, words):
    """Train the folds that are not finished, as `gpuopt train` does."""

    def start(folder, *more):
        run = RunFolder(folder)
        with run.lock:
            config = compose(*tiny, *words, "folds=2", *more)
            run.write_config(config)
            return train_folds(run, config, Console(quiet=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuopt.worker.draw_figures", lambda *_: {})
        yield start


@pytest.fixture(scope="module")
def folds(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds") / "run"
    return folder, start(folder, ON)


def pooled(folder, name):
    return [row for fold in range(2) for row in read(folder / f"fold_{fold}" / name)]


def test_folds_are_pooled_and_calibrated_together(folds):
    folder, results = folds
    content = json.loads((folder / "calibration.json").read_text())
    assert content == json.loads((folder / "results.json").read_text())["calibration"]
    assert content["fitted_on"] == "out-of-fold images"
    assert content["images"] == results["data"]["out_of_fold_images"]
    found = temperatures(folder)
    for tta, name in (("legacy", "out_of_fold.csv"), ("none", "out_of_fold_no_tta.csv")):
        rows = pooled(folder, name)
        assert len(rows) == content["images"]
        fit = fit_temperature(targets_of(rows), log_of_probabilities(shares_of(rows)))
        assert found[tta] == pytest.approx(fit.temperature, rel=1e-6)
    weights = [sha256_of(folder / f"fold_{fold}/checkpoints/best.ckpt") for fold in range(2)]
    assert content["weights_sha256"] == weights
    own = [temperatures(folder / f"fold_{fold}")["legacy"] for fold in range(2)]
    assert min(own) <= found["legacy"] <= max(own)


def test_the_mean_of_the_folds_is_calibrated_after_it_is_taken(folds, tmp_path):
    folder, _ = folds
    rows = predicted(folder, tmp_path / "p", "tta=legacy")
    own = predicted(folder, tmp_path / "r", "tta=legacy", "use_calibration=false")
    expected = apply_temperature(shares_of(own), temperatures(folder)["legacy"])
    np.testing.assert_allclose(shares_of(rows), expected, rtol=2e-5, atol=1e-7)
    test = json.loads((folder / "calibration.json").read_text())["policies"][0]["test"]
    sure = shares_of(rows)[np.arange(len(rows)), targets_of(rows)]
    assert -np.log(sure).mean() == pytest.approx(test["after"]["nll"]["value"], abs=1e-4)


def test_a_fold_alone_and_folds_of_which_some_are_missing_are_calibrated(folds, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(folds[0], folder)
    for place, name in ((folder / "fold_1", "fold_1"), (folder, "run")):
        if place == folder:
            (folder / "fold_1/checkpoints/best.ckpt").unlink()
        capsys.readouterr()
        predicted(place, tmp_path / f"p_{name}", "tta=legacy")
        temperature = temperatures(place)["legacy"]
        assert f"temperature {temperature:.3f} for tta=legacy" in capsys.readouterr().out


def test_a_fold_without_predictions_to_calibrate_on_is_tested_again_not_trained(
    folds, start, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(folds[0], folder)
    (folder / "fold_1/out_of_fold_no_tta.csv").unlink()
    files = [folder / f"fold_{fold}/checkpoints/best.ckpt" for fold in range(2)]
    before = [path.read_bytes() for path in files]
    finished = (folder / "fold_0/results.json").stat().st_mtime_ns
    start(folder, ON)
    assert (folder / "fold_0/results.json").stat().st_mtime_ns == finished
    assert [path.read_bytes() for path in files] == before
    assert temperatures(folder) == temperatures(folds[0])
    start(folder)
    assert not (folder / "calibration.json").exists()
