import json
import shutil

import pytest

from gpuopt.errors import InputError
from gpuopt.known_run import known_run
from gpuopt.measure import Interval
from gpuopt.session.tta_scores import TTA_SCORES, write_tta_scores
from gpuopt.storage import sha256_of
from gpuopt.tta import TestTimeAugmentation, View
from gpuopt.tta.frontier import PolicyScores, ScoredPolicy

WORTH = Interval(0.9, 0.8, 0.95)
SCORES = PolicyScores(
    [ScoredPolicy("none", (View(),), "mean", WORTH, None, 0.9, -0.1, is_preset=True)], 7, 8
)
BEST = "checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("known") / "run"
    train(folder, "trainer.max_steps=2")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_a_run_tells_its_model_and_what_was_scored(run):
    write_tta_scores(run, {BEST: sha256_of(run / BEST)}, "images", SCORES)
    found = known_run(str(run))
    assert (found.model_name, found.image_size, found.models) == ("test_vit", 32, 1)
    assert found.worth == {TestTimeAugmentation().fingerprint: WORTH}
    assert found.worth_reason.startswith("of 8 held-out images")


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (None, "nothing was scored yet"),
        ({BEST: "other"}, "the weights have changed"),
        ({"../elsewhere.ckpt": "x"}, "the weights have changed"),
        ({"/etc/passwd": "x"}, "the weights have changed"),
    ],
)
def test_scores_of_other_weights_are_left_out_with_the_reason(run, weights, reason):
    if weights is not None:
        write_tta_scores(run, weights, "images", SCORES)
    found = known_run(str(run))
    assert found.worth == {}
    assert reason in found.worth_reason
    assert f"gpuopt recommend_tta run={run}" in found.worth_reason


def test_damaged_scores_are_left_out_with_the_reason(run):
    for text in ("{", json.dumps({"schema": 9}), "[]", "[" * 100_000):
        (run / TTA_SCORES).write_text(text)
        assert "is damaged" in known_run(str(run)).worth_reason
    for weights in ({}, {"a\0b": "x"}):
        write_tta_scores(run, weights, "images", SCORES)
        assert "is damaged (weights)" in known_run(str(run)).worth_reason


def test_weights_that_cannot_be_followed_are_other_ones(run):
    (run / "circle").symlink_to("circle")
    write_tta_scores(run, {"circle": "x"}, "images", SCORES)
    assert "the weights have changed" in known_run(str(run)).worth_reason


def test_there_must_be_a_run():
    with pytest.raises(InputError, match="does not exist"):
        known_run("nowhere")


def test_a_run_of_folds_counts_those_that_were_trained(trained, tmp_path):
    folds = tmp_path / "folds"
    for fold in (1, 2):
        shutil.copytree(trained, folds / f"fold_{fold}")
    (folds / "fold_0").mkdir()
    (folds / "config.yaml").write_text("folds: 3\n")
    found = known_run(str(folds))
    assert (found.model_name, found.image_size, found.models) == ("test_vit", 32, 2)
