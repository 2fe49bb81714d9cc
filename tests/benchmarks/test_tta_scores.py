import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import tta_scores
from benchmarks.commands import Finished
from benchmarks.fold_run import FoldRun, make_fold_run
from benchmarks.tta_scores import ScoredRun, score_rows
from gpuopt.config import compose_settings
from gpuopt.data.drawing import DocumentSet
from gpuopt.tta import TestTimeAugmentation, View
from gpuopt.tta.held_out import HeldOutScores
from tests.benchmarks.test_benchmarks import run_quick

GROUPS = ("clean", "upright", "turned", "flipped", "blurred", "badly exposed", "noisy")


@pytest.fixture
def run(tmp_path):
    """A trained run, as far as the program asks: one fold of a run that took no training."""
    made = FoldRun("test_vit", 32, 2, DocumentSet(0, 100, 40, 64), tmp_path / "cache")
    make_fold_run(tmp_path / "run", made, torch.device("cpu"))
    place = tmp_path / "run" / "fold_0"
    results = {
        "training": {"initial_weights": "random", "epochs": 3},
        "data": {"name": "Documents"},
        "machine": {"host": "mine"},
    }
    (place / "results.json").write_text(json.dumps(results))
    return place


def test_a_given_run_is_scored_by_disturbance(tmp_path, run, monkeypatch):
    monkeypatch.setattr(tta_scores, "_cache", lambda *_: str(tmp_path / "cache"))
    content, rows = run_quick(tta_scores, tmp_path / "results", "--run", str(run))
    parts = ["", *(f", {name}" for name in GROUPS)]
    assert set(rows) == {
        *(f"macro-F1, tta=none{part}" for part in parts),
        *(
            f"gain of tta={name} in macro-F1{part}"
            for name in ("essential", "comprehensive", "doc15")
            for part in parts
        ),
    }
    setting = rows["macro-F1, tta=none"]["setting"]
    assert setting == (
        "test_vit 32 px, random initial weights, 3 epochs with turns and mirrors, Documents, "
        "40 images"
    )
    turned, upright = (
        int(rows[f"macro-F1, tta=none, {name}"]["setting"].split()[-2])
        for name in ("turned", "upright")
    )
    assert turned + upright == 40
    assert "machine" not in content["details"]["quickstart"]  # has the name of this one


def test_a_network_is_trained_and_its_run_scored(tmp_path, monkeypatch):
    started = []

    def train(words, folder):
        started.append(words[3:])
        place = next(word for word in words if word.startswith("run=")).partition("=")[2]
        Path(place).mkdir()
        Path(place, "results.json").write_text('{"machine": {}}')
        return Finished(1.0, 0, "")

    monkeypatch.setattr(tta_scores, "run_timed", train)
    monkeypatch.setattr(tta_scores, "_POLICIES", ("none",))
    monkeypatch.setattr(tta_scores, "_score", lambda place, *_: synthetic(place.name))
    networks = ["convnext_base", "efficientnet_b3"]
    words = ["--models", *networks, "--epochs", "7", "--device", "cpu"]
    path = tta_scores.main([*words, "--output", str(tmp_path / "results")])
    assert [words[0] for words in started] == ["mode=highperf", "mode=basic"]
    for words in started:
        assert {"trainer.max_epochs=7", "model.pretrained=false", "gpu=cpu"} < set(words)
    rows = json.loads(path.read_text())["rows"]
    assert {row["setting"].partition(",")[0] for row in rows} == set(networks)


@pytest.mark.parametrize("name", tta_scores._TRAININGS)
def test_every_training_is_valid(name):
    settings = compose_settings("train", [*tta_scores._TRAININGS[name], *tta_scores._COMMON])
    assert settings["model"]["pretrained"] is (name == "quickstart")


def test_a_training_that_fails_is_no_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(tta_scores, "run_timed", lambda *_: Finished(1.0, 3, "no memory"))
    with pytest.raises(RuntimeError, match="the training of quickstart failed: no memory"):
        tta_scores.main(["--quick", "--output", str(tmp_path)])


def synthetic(name="x"):
    """Ten images of two classes; a turned view sets three of the five turned ones right."""
    targets = np.arange(10) % 2
    turned = np.arange(10) >= 5
    right, wrong = np.log([0.6, 0.4]), np.log([0.4, 0.6])
    plain = np.array([wrong if bad else right for bad in turned])
    view = np.array([np.log([0.9, 0.1])] * 8 + [wrong] * 2)
    scores = [np.where(targets[:, None] == 0, one, one[:, ::-1]) for one in (plain, view)]
    views = (View(), View((("rotate", 90.0),)))
    return ScoredRun(name, HeldOutScores(views, scores, targets), {"turned": turned, "no": ~turned})


def test_gains_are_paired_and_in_percentage_points():
    policies = [TestTimeAugmentation(), TestTimeAugmentation("both", [{}, {"rotate": 90}])]
    rows = {row.measure: row for row in score_rows(synthetic(), policies, resamples=200)}
    assert rows["macro-F1, tta=none"].value == pytest.approx(0.5, abs=0.05)
    assert rows["macro-F1, tta=none, turned"].value == 0
    gain = rows["gain of tta=both in macro-F1, turned"]
    assert gain.unit == "pp"
    assert gain.value == pytest.approx(60, abs=5)
    assert gain.low < gain.value < gain.high
    assert gain.setting == "x, 5 images"
    assert rows["gain of tta=both in macro-F1, no"].value == 0
    assert not [name for name in rows if "gain of tta=none" in name]
