"""Runs of folds in this process: what they leave behind, resume, and how predict averages them."""

import csv
import gc
import hashlib
import itertools
import json
import os
import shutil
import signal
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from sklearn.metrics import f1_score

from gpuopt import fold_runs
from gpuopt.callbacks import ExactResume
from gpuopt.config import compose_settings
from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.fold_runs import train_folds
from gpuopt.model import Classifier
from gpuopt.predict import predict
from gpuopt.run import RunFolder, resumed_settings
from gpuopt.schema import to_predict_config
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.tta import PredictionFile

FEW = ("data.test_ratio=0.7", "micro_batch_size=32", "global_batch_size=32")
COUNT = 3


@pytest.fixture(scope="module")
def start(tiny, compose):
    """Start a run of folds as `gpuopt train` does, or go on with it, without Hydra or pictures."""

    def start(folder, *overrides, console=None):
        run = RunFolder(folder)
        with run.lock, run.discarded_on_bad_input():
            config = compose(*tiny, *FEW, f"folds={COUNT}", *overrides)
            typed = [word.partition("=")[0] for word in overrides]
            if (folder / "config.yaml").exists():
                config = resumed_settings(config, folder, typed)
            run.write_config(config)
            return train_folds(run, config, console or Console(quiet=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuopt.worker.draw_figures", lambda *_: {})
        yield start


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A finished run of all folds, its results and what the terminal showed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with (folder.parent / "screen.txt").open("w") as screen:
        results = start(folder, console=Console(file=screen, width=110))
    return folder, results, (folder.parent / "screen.txt").read_text()


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def shares_of(rows):
    return np.array([[float(v) for k, v in row.items() if k.startswith("p_")] for row in rows])


def weights(folder):
    return read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


def same_weights(first, second):
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def digest_of_folds(folder, folds):
    files = [p for fold in folds for p in sorted((folder / f"fold_{fold}").rglob("*"))]
    facts = [(str(p), p.stat().st_mtime_ns) for p in files if p.is_file() and p.name != ".lock"]
    assert facts
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@pytest.fixture
def disturb(monkeypatch):
    """Let something happen at one step of one fold, until the returned call undoes it."""
    original = ExactResume.on_train_batch_start

    def at(fold, step, act):
        def disturbed(self, trainer, pl_module, batch, batch_idx):
            original(self, trainer, pl_module, batch, batch_idx)
            if (trainer.datamodule.fold, trainer.global_step) == (fold, step):
                act()

        monkeypatch.setattr(ExactResume, "on_train_batch_start", disturbed)
        return lambda: monkeypatch.setattr(ExactResume, "on_train_batch_start", original)

    return at


def test_every_fold_is_a_complete_run_and_lies_beside_the_sum(whole):
    folder, results, _ = whole
    for fold in range(COUNT):
        names = {path.name for path in (folder / f"fold_{fold}").iterdir()}
        assert names >= {
            "config.yaml",
            "checkpoints",
            "results.json",
            "predictions.csv",
            "out_of_fold.csv",
            "train.log",
            "model.safetensors",
        }
        assert yaml.safe_load((folder / f"fold_{fold}/config.yaml").read_text())["fold"] == fold
    assert not (folder / "checkpoints").exists()
    assert json.loads((folder / "results.json").read_text()) == results
    assert results["state"] == "finished"
    assert results["training"]["best_validation_score"] > 0  # what a search goes by
    assert results["training"]["samples_per_second"] > 0


def test_fold_results_name_weights_and_scores(whole):
    folder, results, _ = whole
    content = yaml.safe_load((folder / "fold_results.yaml").read_text())
    assert content["n_folds"] == COUNT
    assert [row["fold"] for row in content["fold_results"]] == list(range(COUNT))
    scores = []
    for row in content["fold_results"]:
        own = read(folder / f"fold_{row['fold']}/out_of_fold.csv")
        targets, predicted = ([r[key] for r in own] for key in ("target", "prediction"))
        assert (folder / row["model_path"]).is_file()
        score = f1_score(targets, predicted, average="macro")
        assert row["score"] == pytest.approx(score, abs=1e-6)
        assert row["images"] == len(own)
        scores.append(row["score"])
    assert content["mean"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert content["std"] == pytest.approx(np.std(scores, ddof=1), abs=1e-5)
    assert results["folds"]["mean"] == content["mean"]


def test_every_training_image_is_once_out_of_fold_and_the_pooled_score_agrees(whole):
    folder, results, _ = whole
    rows = read(folder / "out_of_fold.csv")
    tested = {row["id"] for row in read(folder / "predictions.csv")}
    everything = {f"digit_{number:04d}" for number in range(1797)}
    assert len(rows) == len({row["id"] for row in rows})
    assert {row["id"] for row in rows} == everything - tested
    assert list(rows[0])[:4] == ["id", "fold", "target", "prediction"]
    shares = shares_of(rows)
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert [row["prediction"] for row in rows] == [str(c) for c in shares.argmax(axis=1)]
    targets, predicted = ([row[key] for row in rows] for key in ("target", "prediction"))
    pooled = results["metrics"]["macro_f1"]
    assert pooled["value"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert pooled["low"] < pooled["value"] < pooled["high"]


def test_an_out_of_fold_prediction_comes_from_the_model_that_has_not_seen_the_image(whole):
    """Validation in training saw the same images with the same weights."""
    folder, _, _ = whole
    for fold in range(COUNT):
        own = json.loads((folder / f"fold_{fold}/results.json").read_text())
        rows = read(folder / f"fold_{fold}/out_of_fold.csv")
        assert own["data"]["validation_images"] == len(rows)
        targets, predicted = ([row[key] for row in rows] for key in ("target", "prediction"))
        score = f1_score(targets, predicted, average="macro")
        assert own["training"]["best_validation_score"] == pytest.approx(score, abs=1e-4)


def test_the_test_images_get_the_mean_of_the_folds(whole):
    folder, results, _ = whole
    rows = read(folder / "predictions.csv")
    parts = [shares_of(read(folder / f"fold_{fold}/predictions.csv")) for fold in range(COUNT)]
    mean = np.mean(parts, axis=0)
    assert shares_of(rows) == pytest.approx(mean, abs=1e-6)
    score = f1_score([int(row["target"]) for row in rows], mean.argmax(axis=1), average="macro")
    assert results["test_ensemble"]["macro_f1"]["value"] == pytest.approx(score)


def test_the_table_shows_every_fold_and_the_sum(whole):
    _, results, screen = whole
    assert all(f"fold {fold} of {COUNT}" in screen for fold in range(COUNT))
    table = screen[screen.index("Out of fold on digits") :]
    pooled = results["metrics"]["macro_f1"]
    assert f"{pooled['value']:.3f}  {pooled['low']:.3f} to {pooled['high']:.3f}" in table
    assert f"mean of the folds {results['folds']['mean']:.3f}" in table
    assert "test, mean of folds" in table


def test_finished_folds_are_not_trained_again(whole, start):
    folder, results, _ = whole
    before = digest_of_folds(folder, range(COUNT))
    again = start(folder, "resume=true")
    assert digest_of_folds(folder, range(COUNT)) == before
    assert again["metrics"] == results["metrics"]


@pytest.mark.parametrize("name", ["results.json", "out_of_fold.csv", "predictions.csv"])
def test_a_fold_with_damaged_results_is_finished_again(whole, start, tmp_path, name):
    folder, results, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "fold_1" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = digest_of_folds(copy, (0, 2))
    again = start(copy, "resume=true")
    assert digest_of_folds(copy, (0, 2)) == before
    assert again["metrics"] == results["metrics"]


def test_stopped_in_the_second_fold_and_resumed_it_is_the_same_to_the_bit(
    whole, start, tmp_path, disturb
):
    parts = tmp_path / "parts"
    undo = disturb(1, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(PreemptedError) as caught:
        start(parts)
    undo()
    assert str(caught.value).endswith(f"go on with resume={parts}")
    content = yaml.safe_load((parts / "fold_results.yaml").read_text())
    assert [row["fold"] for row in content["fold_results"]] == [0]
    assert (content["std"], (parts / "fold_2").exists()) == (None, False)
    before = digest_of_folds(parts, [0])
    resumed = start(parts, "resume=true")
    assert digest_of_folds(parts, [0]) == before
    assert "resuming from last.ckpt (step 4)" in (parts / "fold_1/train.log").read_text()
    for fold in range(COUNT):
        assert same_weights(whole[0] / f"fold_{fold}", parts / f"fold_{fold}")
    assert resumed["metrics"] == whole[1]["metrics"]
    assert resumed["test_ensemble"] == whole[1]["test_ensemble"]


def test_one_fold_alone_is_the_same_and_the_others_can_follow(whole, start, tmp_path):
    alone = tmp_path / "alone"
    results = start(alone, "fold=2")
    assert [path.name for path in alone.glob("fold_?")] == ["fold_2"]
    assert same_weights(whole[0] / "fold_2", alone / "fold_2")
    assert (results["state"], results["folds"]["missing"]) == ("partial", [0, 1])
    assert results["folds"]["macro_f1"]["2"] == whole[1]["folds"]["macro_f1"]["2"]
    before = digest_of_folds(alone, [2])
    assert start(alone, "resume=true", "fold=0")["folds"]["missing"] == [1]
    everything = start(alone, "resume=true", "fold=null")
    assert digest_of_folds(alone, [2]) == before
    assert everything["metrics"] == whole[1]["metrics"]


def test_the_model_of_a_fold_is_gone_when_the_next_one_starts(start, tmp_path, monkeypatch):
    counts, original = [], fold_runs.work

    def work(run, console):
        counts.append(sum(type(found) is Classifier for found in gc.get_objects()))
        original(run, console)

    monkeypatch.setattr(fold_runs, "work", work)
    gc.collect()
    gc.disable()  # nothing but the run itself shall collect
    try:
        start(tmp_path / "run")
    finally:
        gc.enable()
    assert counts == [0, 0, 0]


def test_more_epochs_go_on_with_every_fold(whole, start, tmp_path):
    copy = tmp_path / "longer"
    shutil.copytree(whole[0], copy)
    start(copy, "resume=true", "trainer.max_epochs=2")
    for fold in range(COUNT):
        own = json.loads((copy / f"fold_{fold}/results.json").read_text())
        assert own["training"]["epochs"] == 2


def test_a_fault_names_the_folder_of_the_whole(start, tmp_path, disturb):
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    undo = disturb(0, 2, fail)
    with pytest.raises(FaultError, match=r"resume=\S*/mine micro_batch_size=16"):
        start(tmp_path / "mine")
    undo()


def test_bad_input_leaves_nothing_behind(start, tmp_path):
    with pytest.raises(InputError, match="too few for 20 folds"):
        start(tmp_path / "new", "data.test_ratio=0.9", "folds=20")
    assert not list(tmp_path.iterdir())


# --- predict ---------------------------------------------------------------------------------


def predicted(place, folder, *overrides):
    folder.mkdir(exist_ok=True)
    words = ["gpu=cpu", "num_workers=0", f"run={place}", *overrides]
    return read(predict(to_predict_config(compose_settings("predict", words)), folder))


@pytest.mark.parametrize("name", [".", "fold_results.yaml"])
def test_predict_averages_the_probabilities_of_all_folds(whole, tmp_path, name):
    folder, _, _ = whole
    rows = predicted(folder / name, tmp_path / "mean")
    own = [predicted(folder / f"fold_{fold}", tmp_path / f"{fold}") for fold in range(COUNT)]
    assert all([row["id"] for row in part] == [row["id"] for row in rows] for part in own)
    mean = np.mean([shares_of(part) for part in own], axis=0)
    assert shares_of(rows) == pytest.approx(mean, abs=2e-6)
    assert len({tuple(shares_of(part)[0]) for part in own}) == COUNT


def test_predict_takes_the_folds_that_are_there_and_names_the_rest(whole, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(whole[0], copy)
    best = copy / "fold_0/checkpoints/best.ckpt"
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.unlink()  # it may be a link to last.ckpt
    best.write_bytes(bytes(content))
    shutil.rmtree(copy / "fold_2")
    rows = predicted(copy, tmp_path / "one")
    line = "mean of 1 of 3 folds; missing: fold 0 (damaged), fold 2 (not trained)"
    assert line in capsys.readouterr().out.splitlines()
    assert rows == predicted(copy / "fold_1", tmp_path / "alone")
    (copy / "fold_1/results.json").unlink()
    with pytest.raises(InputError, match=r"has no finished fold .*fold 1 not finished.*resume="):
        predicted(copy, tmp_path / "none")


@pytest.mark.parametrize("size", [1, 2])
def test_however_folds_are_dealt_into_passes_the_file_is_the_same(
    whole, tmp_path, monkeypatch, size
):
    """Also when the second pass is cut short in its second batch."""
    predicted(whole[0], tmp_path / "all", "folds_per_pass=3", "batch_size=500")
    words = (f"folds_per_pass={size}", "batch_size=500")
    calls, original = itertools.count(1), PredictionFile.append

    def append(self, block):
        if next(calls) == 3 + 2:
            raise KeyboardInterrupt
        original(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "append", append)
        with pytest.raises(PreemptedError, match=r"after 500 of 1258 images of pass 2: "):
            predicted(whole[0], tmp_path / "p", *words)
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {"predictions.csv.part", "predictions.csv.part2"}
    predicted(whole[0], tmp_path / "p", *words, "resume=true")
    (file,) = (tmp_path / "p").iterdir()
    assert file.read_bytes() == (tmp_path / "all/predictions.csv").read_bytes()


def test_all_folds_share_a_pass_where_there_is_memory(whole, tmp_path, monkeypatch, capsys):
    from gpuopt.data import ImageDataset

    read, original = [], ImageDataset.__getitem__

    def count(self, chunk):
        read.append(len(chunk.indices))
        return original(self, chunk)

    monkeypatch.setattr(ImageDataset, "__getitem__", count)
    predicted(whole[0], tmp_path / "p")
    assert sum(read) == 1258  # every image once
    assert "folds_per_pass=3 (measured: 0.00 GiB of weights each" in capsys.readouterr().out


def test_one_fold_per_pass_keeps_one_model_at_a_time(whole, tmp_path, monkeypatch):
    from gpuopt.session import ensemble

    living, loads, original = weakref.WeakSet(), [], ensemble.build_described

    def load(checkpoint, where):
        gc.collect()
        assert not living, "the model before is still there"
        model, description = original(checkpoint, where)
        living.add(model)
        loads.append(Path(where).parts[-3])
        return model, description

    monkeypatch.setattr(ensemble, "build_described", load)
    predicted(whole[0], tmp_path / "p", "folds_per_pass=1")
    assert loads == ["fold_0", "fold_1", "fold_2"]
