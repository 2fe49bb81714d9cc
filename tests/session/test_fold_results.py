"""Scores of folds from files made by hand."""

import json

import pytest
import yaml

from gpuopt.measure import macro_f1
from gpuopt.report import write_predictions_csv, write_rows_csv
from gpuopt.session.fold_results import (
    read_fold,
    read_test_ensemble,
    training_of_folds,
    write_fold_results,
)


def make(folder, fold, right=3, wrong=1, state="finished", tests=("x", "y"), shares=0.8):
    """Make a fold whose images are all cats, some taken for dogs."""
    own = folder / f"fold_{fold}"
    own.mkdir(parents=True)
    results = {"state": state, "training": {"best_epoch": 2}}
    (own / "results.json").write_text(json.dumps(results))
    kinds = ["cat"] * right + ["dog"] * wrong
    rows = [[f"f{fold}_{i}", fold, "cat", kind, "1", "0"] for i, kind in enumerate(kinds)]
    header = ["id", "fold", "target", "prediction", "p_cat", "p_dog"]
    write_rows_csv(own / "out_of_fold.csv", header, rows)
    write_predictions_csv(
        own / "predictions.csv",
        list(tests),
        [[shares, 1 - shares]] * len(tests),
        ["cat", "dog"],
        [0, -1][: len(tests)],
    )
    return own


def test_a_fold_is_read_when_it_is_whole(tmp_path):
    found = read_fold(make(tmp_path, 1), 1)
    assert found.macro_f1.value == pytest.approx((2 * 3 / (4 + 3) + 0) / 2)
    assert read_fold(tmp_path / "fold_1", 0) is None  # the file is of another fold
    assert read_fold(make(tmp_path, 2, state="failed"), 2) is None
    assert read_fold(tmp_path / "fold_3", 3) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"state": 1}', "null"])
def test_damaged_results_are_no_results(tmp_path, content):
    own = make(tmp_path, 0)
    (own / "results.json").write_text(content)
    assert read_fold(own, 0) is None


def test_mean_and_deviation_stand_in_the_file(tmp_path):
    one, other = (read_fold(make(tmp_path, k, wrong=w), k) for k, w in ((0, 1), (3, 0)))
    write_fold_results(tmp_path, 5, [one])
    content = yaml.safe_load((tmp_path / "fold_results.yaml").read_text())
    assert (content["mean"], content["std"]) == (pytest.approx(3 / 7, abs=1e-6), None)
    write_fold_results(tmp_path, 5, [one, other])
    content = yaml.safe_load((tmp_path / "fold_results.yaml").read_text())
    assert [row["fold"] for row in content["fold_results"]] == [0, 3]
    assert content["fold_results"][1]["model_path"] == "fold_3/checkpoints/best.ckpt"
    assert content["mean"] == pytest.approx((3 / 7 + 1) / 2, abs=1e-6)
    assert content["std"] == pytest.approx(4 / 7 / 2**0.5, abs=1e-6)


def test_test_images_get_the_mean_and_only_known_classes_are_scored(tmp_path):
    folds = [read_fold(make(tmp_path, k, shares=s), k) for k, s in ((0, 0.9), (1, 0.2))]
    ensemble = read_test_ensemble(folds)
    assert ensemble.ids == ["x", "y"]
    assert ensemble.targets.tolist() == [0, -1]
    assert ensemble.probabilities.tolist() == [pytest.approx([0.55, 0.45])] * 2
    assert ensemble.score(macro_f1).value == 1.0


def test_folds_that_tested_on_other_images_are_not_averaged(tmp_path):
    folds = [read_fold(make(tmp_path, k, tests=t), k) for k, t in ((0, "xy"), (1, "xz"))]
    with pytest.raises(ValueError, match="different images"):
        read_test_ensemble(folds)
    alone = read_fold(make(tmp_path, 2, right=2, wrong=0, tests=("f2_0", "f2_1")), 2)
    assert read_test_ensemble([alone]) is None  # it tested on its own images


def test_what_training_measured_is_summed_up_for_sweeps():
    one = {"samples_per_second": 100.0, "peak_memory_gib": 3.5, "best_validation_score": 0.5}
    other = {"samples_per_second": 200.0, "peak_memory_gib": 3.0, "best_validation_score": None}
    expected = {"samples_per_second": 150, "peak_memory_gib": 3.5, "best_validation_score": 0.5}
    assert training_of_folds([one, other]) == expected
    assert training_of_folds([{"epochs": 1}]) == {}  # nothing is not zero
