"""The predict command in this process, on a small contest, and what it refuses."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpuopt.config import compose_settings
from gpuopt.errors import FaultError, InputError
from gpuopt.predict import predict
from gpuopt.schema import to_predict_config


@pytest.fixture(scope="module")
def home(train, tmp_path_factory):
    """A run on a contest's images, and test images without classes."""
    root = tmp_path_factory.mktemp("home")
    generator = np.random.default_rng(0)
    for name in ("train", "test"):
        (root / name).mkdir()
        for i in range(12):
            pixels = generator.integers(0, 60, (24, 24, 3)) + 190 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    rows = [f"{i}.png,{(7, 30)[i % 2]}" for i in range(12)]
    (root / "train.csv").write_text("\n".join(["id,target", *rows]))
    (root / "classes.csv").write_text("target,name\n30,light\n7,dark\n")
    (root / "sample.csv").write_text("id,target\n4.png,0\n1.png,0\n3.png,0\n")
    train(
        root / "run",
        "data=image_csv",
        f"data.root={root}",
        "data.classes_csv=classes.csv",
        "data.validation_ratio=0.3",
        "data.cache=off",
        "global_batch_size=8",
        "micro_batch_size=8",
        "num_workers=0",
    )
    return root


def predicted(home, folder, *overrides):
    folder.mkdir(exist_ok=True)
    words = ["gpu=cpu", "num_workers=0", f"run={home / 'run'}", *overrides]
    return predict(to_predict_config(compose_settings("predict", words)), folder)


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def contest(home):
    return (
        "data=image_csv",
        f"data.root={home}",
        "data.test_csv=sample.csv",
        "data.test_dir=test",
        "data.cache=off",
    )


def test_a_contest_gets_its_submission_with_the_csvs_own_values(home, tmp_path):
    output = predicted(home, tmp_path / "p", *contest(home), "data.classes_csv=classes.csv")
    rows = read(output)
    assert [row["id"] for row in rows] == ["4.png", "1.png", "3.png"]
    value = {"light": "30", "dark": "7"}
    expected = [{"id": row["id"], "target": value[row["prediction"]]} for row in rows]
    assert read(output.with_name("submission.csv")) == expected


def test_without_classes_csv_the_class_names_are_the_values(home, tmp_path):
    output = predicted(home, tmp_path / "p", *contest(home))
    submission = read(output.with_name("submission.csv"))
    assert [row["target"] for row in submission] == [row["prediction"] for row in read(output)]


def test_classes_csv_must_name_the_models_classes(home, tmp_path):
    (home / "others.csv").write_text("target,name\n30,big\n7,dark\n")
    with pytest.raises(InputError, match="does not name the model's class 'light'"):
        predicted(home, tmp_path / "p", *contest(home), "data.classes_csv=others.csv")


def test_a_submission_that_exists_is_kept(home, tmp_path):
    (tmp_path / "submission.csv").write_text("mine")
    with pytest.raises(InputError, match=r"submission\.csv exists"):
        predicted(home, tmp_path, *contest(home))
    assert (tmp_path / "submission.csv").read_text() == "mine"
    with pytest.raises(InputError, match=r"name it predictions\.csv"):
        predicted(home, tmp_path / "p", *contest(home), f"output={tmp_path / 'p/submission.csv'}")


def test_a_submission_that_a_full_disk_refused_is_written_by_going_on(home, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gpuopt.session.contest.write_contest_csv", full)
        how = f"free space, and the same command with resume={tmp_path} goes on"
        with pytest.raises(FaultError, match=how):
            predicted(home, tmp_path, *contest(home))
    assert len(read(tmp_path / "predictions.csv")) == 3
    words = (*contest(home), f"resume={tmp_path}")
    part = (tmp_path / "predictions.csv.part").read_bytes()
    before = (tmp_path / "predictions.csv").stat()
    predicted(home, tmp_path, *words)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"predictions.csv", "submission.csv"}
    assert (tmp_path / "predictions.csv").stat() == before
    (tmp_path / "predictions.csv.part").write_bytes(part)  # killed before it was removed
    predicted(home, tmp_path, *words)
    assert {path.name for path in tmp_path.iterdir()} == files


def test_labelled_images_get_a_score_and_no_submission(home, tmp_path, capsys):
    output = predicted(home, tmp_path / "p")
    assert "macro-F1 with tta=none" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["predictions.csv"]


def test_folders_of_classes_get_a_score(home, tmp_path, capsys):
    for i in range(4):
        folder = tmp_path / "new" / ("light" if i % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "test" / f"{i}.png", folder)
    words = ("data=image_folder", f"data.root={tmp_path / 'new'}", "data.cache=off")
    rows = read(predicted(home, tmp_path / "p", *words))
    assert [row["target"] for row in rows] == ["dark", "dark", "light", "light"]
    assert "macro-F1 with tta=none, by the images' folders: " in capsys.readouterr().out
    shutil.copy(home / "test/0.png", tmp_path / "new")  # of no class
    rows = read(predicted(home, tmp_path / "q", *words))
    assert {row["target"] for row in rows} == {""}
    assert "macro-F1" not in capsys.readouterr().out


def test_a_home_folder_is_expanded(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    settings = to_predict_config(
        compose_settings("predict", ["gpu=cpu", "num_workers=0", *contest(home)])
    )
    settings.run, settings.output = "~/run", "~/mine.csv"
    try:
        assert predict(settings, tmp_path) == home / "mine.csv"
        assert len(read(home / "mine.csv")) == 3
    finally:
        for name in ("mine.csv", "submission.csv"):
            (home / name).unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["missing/p.csv", "n" * 252 + ".csv"])
def test_an_unwritable_output_is_found_before_the_prediction(home, tmp_path, name, monkeypatch):
    monkeypatch.setattr(
        "gpuopt.session.prediction.find_checkpoint", lambda place: pytest.fail("too late")
    )
    settings = to_predict_config(compose_settings("predict", [f"run={home / 'run'}"]))
    settings.output = str(tmp_path / name)
    with pytest.raises(InputError, match="cannot be written"):
        predict(settings, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_run_folder_is_bad_input(home, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(home / "run", broken)
    for text, word in (("seed: 1\n", "no data and seed"), (None, "config.yaml")):
        (broken / "config.yaml").write_text(text) if text else (broken / "config.yaml").unlink()
        with pytest.raises(InputError, match=word):
            predicted(home, tmp_path / "p", f"run={broken}")


@pytest.mark.parametrize("made", [None, "empty"])
def test_a_run_without_weights_is_refused_before_torch_and_leaves_nothing(tmp_path, made):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "empty").mkdir()
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]
    done = subprocess.run(
        [sys.executable, "-m", "gpuopt.predict", f"run={made or 'nowhere'}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"run={made or 'nowhere'}" in done.stderr.strip().splitlines()[-1]
    assert not list(tmp_path.glob("outputs/predict/*"))


def test_images_without_classes_wait_for_no_library_that_only_training_needs(home, tmp_path):
    code = (
        "import sys; from gpuopt.predict import main; main();"
        "heavy = {'lightning', 'torchmetrics', 'matplotlib', 'scipy', 'pandas', 'sklearn'};"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)"
    )
    words = ("data=image_folder", f"data.root={home / 'test'}", "gpu=cpu", f"run={home / 'run'}")
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "num_workers=0", f"output={tmp_path / 'p.csv'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "p.csv")) == 12
