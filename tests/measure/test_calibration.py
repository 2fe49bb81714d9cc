import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from gpuopt.errors import InputError
from gpuopt.measure import calibration_change, calibration_scores, reliability_bins
from gpuopt.measure.calibration_sums import Drawn
from tests.measure.test_temperature import overconfident, softmax

FIGURES = ("nll", "ece", "ece_equal_mass", "classwise_ece", "brier")


def values(scores):
    return {name: getattr(scores, name).value for name in FIGURES}


def test_figures_are_those_of_other_libraries():
    targets, logits = overconfident(700, 6, 2.0)
    found = values(calibration_scores(targets, logits))
    shares = softmax(logits)
    assert found["nll"] == pytest.approx(log_loss(targets, shares))
    brier = brier_score_loss(targets, shares, labels=range(6), scale_by_half=False)
    assert found["brier"] == pytest.approx(brier)
    ece = multiclass_calibration_error(
        torch.tensor(shares), torch.tensor(targets), 6, n_bins=15, norm="l1"
    )
    assert found["ece"] == pytest.approx(float(ece), abs=1e-6)


def test_class_wise_and_equal_mass_errors_are_what_their_definitions_say():
    targets, logits = overconfident(330, 4, 1.8)
    shares = softmax(logits)
    total = 0.0
    for label in range(4):
        own, hits = shares[:, label], targets == label
        for low in np.arange(15) / 15:
            inside = (own > low) & (own <= low + 1 / 15)
            total += abs((own[inside] - hits[inside]).sum())
    confidences, hits = shares.max(axis=1), shares.argmax(axis=1) == targets
    parts = np.array_split(np.argsort(confidences), 15)
    by_rank = sum(abs((confidences[part] - hits[part]).sum()) for part in parts)
    found = values(calibration_scores(targets, logits))
    assert found["classwise_ece"] == pytest.approx(total / 4 / 330)
    assert found["ece_equal_mass"] == pytest.approx(by_rank / 330)


def test_the_true_temperature_calibrates_and_the_change_is_paired():
    targets, logits = overconfident(3000, 6, 2.0)
    change = calibration_change(targets, logits, 2.0)
    assert change.before == calibration_scores(targets, logits)
    assert change.after == calibration_scores(targets, logits, 2.0)
    for name in FIGURES:
        assert getattr(change.after, name).value < getattr(change.before, name).value
    assert change.after.ece.low == 0.0  # nothing that noise could not explain
    assert change.before.ece.low > 0.05
    difference = change.nll_difference
    assert difference.value == pytest.approx(change.after.nll.value - change.before.nll.value)
    assert difference.high < 0.0
    width = change.before.nll.high - change.before.nll.low
    assert difference.high - difference.low < width  # luck with the samples cancels


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_intervals_cover_the_true_figures_about_as_often_as_they_say(temperature):
    big = values(calibration_scores(*overconfident(200_000, 5, temperature, 99), resamples=20))
    rounds, covered = 100, dict.fromkeys(FIGURES, 0)
    for seed in range(rounds):
        scores = calibration_scores(*overconfident(400, 5, temperature, seed), resamples=200)
        for name in FIGURES:
            interval = getattr(scores, name)
            assert interval.low <= interval.value <= interval.high
            covered[name] += interval.low <= big[name] <= interval.high
    assert min(covered.values()) >= 0.86 * rounds, covered
    assert covered["nll"] < rounds  # an interval that always covers says nothing


def test_bounds_are_mirrored_and_those_of_errors_free_of_noise():
    drawn = np.concatenate(([1.0], np.linspace(0.8, 1.4, 1001)))
    plain = Drawn(drawn).interval()
    assert (plain.low, plain.high) == pytest.approx((2 - 1.385, 2 - 0.815))
    error = Drawn(drawn, noise=np.linspace(0.0, 0.5, 1001)).interval()
    assert (error.low, error.high) == pytest.approx((1 - 0.4875, 2 - 0.815))
    assert Drawn(drawn, noise=np.full(1001, 3.0)).interval().low == 0.0
    above = Drawn(np.concatenate(([1.0], np.full(1001, 1.2)))).interval()
    assert above.high == 1.0  # the measured figure itself is never outside


def test_samples_of_a_group_are_no_independent_evidence():
    targets, logits = overconfident(100, 4, 1.5)
    names = [f"patient {i % 20}" for i in range(100)]
    single = calibration_scores(targets, logits)
    repeated = calibration_scores(
        np.tile(targets, 9), np.tile(logits, (9, 1)), groups=[str(i % 100) for i in range(900)]
    )
    for name in FIGURES:
        one, nine = getattr(single, name), getattr(repeated, name)
        assert nine.value == pytest.approx(one.value, abs=0.002)  # quantiles move a little
        assert nine.high - nine.low == pytest.approx(one.high - one.low, rel=0.25)
    with pytest.raises(InputError, match="100 groups' names do not go with 900"):
        calibration_scores(np.tile(targets, 9), np.tile(logits, (9, 1)), groups=names)


def test_the_seed_decides_and_chunks_change_no_value(monkeypatch):
    targets, logits = overconfident(300, 4, 1.5)
    first = calibration_scores(targets, logits)
    assert first == calibration_scores(targets, logits)
    assert first != calibration_scores(targets, logits, seed=1)
    monkeypatch.setattr("gpuopt.measure.temperature._CHUNK_ROWS", 7)
    assert values(calibration_scores(targets, logits)) == pytest.approx(values(first))


def test_very_few_samples_and_very_sure_ones_have_figures():
    for scores in (
        calibration_scores([0], np.array([[2.0, 0.0]])),
        calibration_scores([0, 1], np.array([[300.0, 0.0], [0.0, 300.0]])),
    ):
        assert all(np.isfinite(list(part.values())).all() for part in scores.as_dict().values())
    assert scores.ece.value == 0.0


def test_many_probabilities_get_fewer_resamples(monkeypatch):
    drawn = []
    monkeypatch.setattr("gpuopt.measure.calibration_sums._AFFORDED_VALUES", 500_000)
    original = np.random.default_rng

    def spied(seed):
        generator = original(seed)

        class Spy:
            def poisson(self, mean, shape):
                drawn.append(shape)
                return generator.poisson(mean, shape)

        return Spy()

    targets, logits = overconfident(400, 5, 1.5)
    monkeypatch.setattr("numpy.random.default_rng", spied)
    calibration_scores(targets, logits)
    assert drawn == [(400, 250)]


def test_bins_hold_what_lies_in_them():
    shares = np.log(np.array([[0.6, 0.4], [0.59, 0.41], [0.2, 0.8], [1e-9, 1.0]]))
    found = reliability_bins([0, 1, 1, 1], shares, bins=5)
    assert found.counts.tolist() == [0, 0, 2, 1, 1]
    np.testing.assert_allclose(found.confidence[2:], [0.595, 0.8, 1.0])
    np.testing.assert_allclose(found.accuracy[2:], [0.5, 1.0, 1.0])
    assert np.isnan(found.accuracy[:2]).all()
    assert np.isnan(found.confidence[:2]).all()
    hot = reliability_bins([0, 1, 1, 1], shares, temperature=10.0, bins=5)
    assert hot.counts.tolist()[2:] == [3, 0, 1]


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"resamples": 1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="at least 20 resamples and 1 bin"):
        calibration_scores([0, 1], np.zeros((2, 2)), **wrong)
