"""Folds of contests: whole groups, submissions from the mean, missing test images."""

import csv

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from gpuopt.fold_runs import train_folds
from gpuopt.predict import predict
from gpuopt.run import RunFolder
from gpuopt.schema import to_predict_config


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def shares_of(rows):
    return np.array([[float(v) for k, v in row.items() if k.startswith("p_")] for row in rows])


def predicted(place, folder, *overrides):
    folder.mkdir(exist_ok=True)
    words = ["gpu=cpu", "num_workers=0", f"run={place}", *overrides]
    return read(predict(to_predict_config(compose_settings("predict", words)), folder))


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    """Images of two classes and eight groups, and test images without classes."""
    root = tmp_path_factory.mktemp("contest")
    generator = np.random.default_rng(0)
    for name, count in (("train", 32), ("test", 5)):
        (root / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 60, (16, 16, 3)) + 190 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    rows = [f"{i}.png,{(7, 30)[i % 2]},p{i // 4}" for i in range(32)]
    (root / "train.csv").write_text("\n".join(["id,target,patient", *rows]))
    (root / "sample.csv").write_text("id,target\n4.png,0\n1.png,0\n3.png,0\n")
    return root


def of(contest, *more):
    return (
        "data=image_csv",
        f"data.root={contest}",
        "data.group_column=patient",
        "data.cache=off",
        "num_workers=0",
        "folds=2",
        "global_batch_size=8",
        "micro_batch_size=8",
        *more,
    )


@pytest.fixture(scope="module")
def run_contest(tiny):
    def run(folder, *overrides):
        run = RunFolder(folder)
        with run.lock:
            config = compose_settings("train", [*tiny, *overrides])
            run.write_config(config)
            return train_folds(run, config, Console(quiet=True))

    return run


def test_a_contest_gets_its_submission_from_the_mean_and_groups_stay_whole(
    contest, run_contest, tmp_path
):
    options = of(contest, "data.test_csv=sample.csv", "data.test_dir=test")
    results = run_contest(tmp_path / "run", *options)
    rows = read(tmp_path / "run/out_of_fold.csv")
    assert list(rows[0])[:5] == ["id", "group", "fold", "target", "prediction"]
    folds = {(row["group"], row["fold"]) for row in rows}
    assert len(rows) == 32
    assert len(folds) == 8
    assert all(row["group"] == f"p{int(row['id'].removesuffix('.png')) // 4}" for row in rows)
    assert results["data"]["groups"] == 8
    assert results["metrics"]["interval"] == "95 % bootstrap by group"
    assert results["test_ensemble"] == {"macro_f1": None, "accuracy": None}
    submission = read(tmp_path / "run/submission.csv")
    mean = read(tmp_path / "run/predictions.csv")
    assert [row["id"] for row in submission] == ["4.png", "1.png", "3.png"]
    assert [row["target"] for row in submission] == [row["prediction"] for row in mean]
    again = predicted(tmp_path / "run", tmp_path / "p")
    assert [row["id"] for row in again] == [row["id"] for row in mean]
    assert shares_of(again) == pytest.approx(shares_of(mean), abs=2e-6)
    assert read(tmp_path / "p/submission.csv") == submission


def test_folds_without_test_images_have_no_ensemble_and_predict_needs_data(
    contest, run_contest, tmp_path
):
    results = run_contest(tmp_path / "run", *of(contest))
    assert results["data"]["test_images"] == 0
    assert not (tmp_path / "run/predictions.csv").exists()
    with pytest.raises(InputError, match=r"has no test images.*say what to predict with data="):
        predicted(tmp_path / "run", tmp_path / "p")
    own = predicted(tmp_path / "run/fold_1", tmp_path / "q")
    held_out = {r["id"] for r in read(tmp_path / "run/out_of_fold.csv") if r["fold"] == "1"}
    assert {row["id"] for row in own} == held_out
    rows = predicted(
        tmp_path / "run", tmp_path / "r", "data=image_folder", f"data.root={contest / 'test'}"
    )
    assert len(rows) == 5
