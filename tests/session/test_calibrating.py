"""Temperatures of a run from arrays: what is written, what is read again, and what is said."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from gpuopt.errors import InputError
from gpuopt.measure import fit_temperature, log_of_probabilities
from gpuopt.session import calibrating
from gpuopt.session.calibrating import Samples, calibrate, conclude_validation
from gpuopt.session.stored_calibration import read_calibration
from gpuopt.tta import Predictions, TestTimeAugmentation
from tests.measure.test_temperature import overconfident, softmax

NONE = TestTimeAugmentation()
TURNS = TestTimeAugmentation("turns", [{}, {"rotate": 90}])
WEIGHTS = ["a" * 64]


@pytest.fixture(scope="module")
def samples():
    targets, logits = overconfident(400, 5, 2.5)
    merged = softmax(logits / 1.5).astype(np.float32)
    return Samples(targets, merged, softmax(logits).astype(np.float32))


def calibrated(folder, samples, policy=TURNS, test=None):
    return calibrate(folder, policy, samples, test, fitted_on="validation images", weights=WEIGHTS)


def test_the_policy_and_the_plain_image_have_temperatures_of_their_own(samples, tmp_path):
    calibrated(tmp_path, samples)
    found = read_calibration(tmp_path / "calibration.json")
    assert [policy.name for policy in found.policies] == ["turns", "none"]
    for policy, shares in ((TURNS, samples.merged), (NONE, samples.single)):
        expected = fit_temperature(samples.targets, log_of_probabilities(shares))
        assert expected.is_accepted
        assert found.choose(policy)[0] == pytest.approx(expected.temperature, rel=1e-9)
    assert found.choose(TURNS)[0] < found.choose(NONE)[0] / 1.3
    assert found.images == 400
    found.require_weights(WEIGHTS)


def test_a_run_without_views_has_one_temperature_under_its_own_name(samples, tmp_path):
    plain = TestTimeAugmentation("plain", [{"weight": 2}])
    calibration = calibrated(tmp_path, samples, plain)
    assert [fitted.policy.name for fitted in calibration.fitted] == ["plain"]
    temperature, _ = read_calibration(tmp_path / "calibration.json").choose(NONE)
    logs = log_of_probabilities(samples.single)
    assert temperature == pytest.approx(fit_temperature(samples.targets, logs).temperature)


def test_before_after_and_the_test_images_are_in_the_file_with_intervals(samples, tmp_path):
    test = Samples(samples.targets[:90], samples.merged[:90], None)
    calibration = calibrated(tmp_path, samples, test=test)
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content == calibration.as_dict()
    turns, none = content["policies"]
    for policy in (turns, none):
        for when in ("before", "after"):
            names = {"nll", "ece", "ece_equal_mass", "classwise_ece", "brier"}
            assert policy[when].keys() == names
            for interval in policy[when].values():
                assert interval["low"] <= interval["value"] <= interval["high"]
        assert policy["after"]["nll"]["value"] < policy["before"]["nll"]["value"]
        assert policy["nll_difference"]["high"] < 0
    assert content["test_images"] == 90
    assert turns["test"]["after"]["nll"]["value"] < turns["test"]["before"]["nll"]["value"]
    assert none["test"] is None  # not predicted
    line = str(calibration.choice)
    assert line.startswith("use_calibration=True (measured: temperature ")
    assert "on 400 validation images; NLL " in line
    assert "on 90 test images" in line
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_a_temperature_that_is_not_accepted_is_one_and_said_to_be(tmp_path):
    right = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    calibration = calibrated(tmp_path, Samples(np.array([0, 1, 0]), right, right))
    assert "temperature 1 for tta=turns: every sample is predicted right" in str(calibration.choice)
    assert read_calibration(tmp_path / "calibration.json").choose(TURNS)[0] == 1.0
    policy = calibration.as_dict()["policies"][0]
    assert policy["is_accepted"] is False
    assert policy["before"] == policy["after"]


def test_groups_widen_the_intervals_and_are_named(samples, tmp_path):
    names = [f"patient {i // 40}" for i in range(400)]
    alone = calibrated(tmp_path, samples).fitted[0].change.before.nll
    order = np.argsort(samples.merged.max(axis=1))  # the images of a group are alike
    grouped = Samples(samples.targets[order], samples.merged[order], samples.single[order], names)
    calibration = calibrated(tmp_path, grouped)
    together = calibration.fitted[0].change.before.nll
    assert calibration.as_dict()["interval"] == "95 % bootstrap by group"
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def predictions(samples, targets=None):
    ids = np.arange(len(samples.targets))[::-1]
    targets = samples.targets if targets is None else targets
    return Predictions(ids, targets, samples.merged, samples.single)


def test_only_predictions_of_known_classes_count_and_groups_follow_their_rows(samples):
    targets = samples.targets.copy()
    targets[10:] = -1
    found = Samples.of(predictions(samples, targets), [f"g{row}" for row in range(400)])
    assert found is not None
    assert len(found.targets) == len(found.merged) == 10
    assert found.groups == [f"g{row}" for row in range(399, 389, -1)]
    assert Samples.of(predictions(samples, np.full(400, -1))) is None


@pytest.fixture
def concluded(samples, tmp_path):
    """Conclude a run that scored its validation images, which are then not predicted again."""

    def conclude(calibrates=True, **evaluation):
        found = {"tested_on": "validation", "predictions": predictions(samples)} | evaluation
        screen = io.StringIO()
        calibration = conclude_validation(
            tmp_path,
            None,
            SimpleNamespace(fold=None, validation_groups=None),
            SimpleNamespace(**found),
            TURNS,
            precision="fp32",
            calibrates=calibrates,
            console=Console(file=screen, width=100),
        )
        return calibration, screen.getvalue()

    return conclude


def test_scored_validation_images_are_not_predicted_again(concluded, tmp_path, monkeypatch):
    (tmp_path / "w").write_bytes(b"weights")
    monkeypatch.setattr(calibrating, "find_checkpoint", lambda folder: tmp_path / "w")
    calibration, screen = concluded()
    assert calibration.images == 400
    assert calibration.test_images == 0
    assert screen.strip() == str(calibration.choice)
    assert concluded(calibrates=False) == (None, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w"]


def test_without_intact_weights_there_is_nothing_that_a_temperature_belongs_to(
    concluded, tmp_path, monkeypatch, caplog
):
    def missing(folder):
        raise InputError("no intact checkpoint")

    monkeypatch.setattr(calibrating, "find_checkpoint", missing)
    assert concluded() == (None, "")
    assert "the run is not calibrated: no intact checkpoint" in caplog.text
    assert not list(tmp_path.iterdir())
