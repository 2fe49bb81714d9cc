import numpy as np
import pytest
from scipy.optimize import minimize

from gpuopt.errors import InputError
from gpuopt.measure import apply_temperature, fit_temperature, log_of_probabilities


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def overconfident(samples, classes, temperature, seed=0):
    """Draw classes from known probabilities, and logits that are too large by a factor."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0.0, 3.0, (samples, classes))
    places = softmax(logits).cumsum(axis=1) > generator.random((samples, 1))
    return places.argmax(axis=1), logits * temperature


def nll(targets, logits, temperature):
    return -np.log(softmax(logits / temperature)[np.arange(len(targets)), targets]).mean()


@pytest.mark.parametrize("true", [0.5, 1.6, 4.0])
def test_the_temperature_by_which_logits_are_too_large_is_found(true):
    targets, logits = overconfident(20_000, 8, true)
    fit = fit_temperature(targets, logits)
    assert fit.temperature == pytest.approx(true, rel=0.03)
    assert fit.is_accepted
    assert fit.nll_after == pytest.approx(nll(targets, logits, fit.temperature))
    assert fit.nll_before == pytest.approx(nll(targets, logits, 1.0))


def test_no_other_temperature_is_better():
    """Found to a millionth of its logarithm, against another method and its neighbours."""
    targets, logits = overconfident(500, 5, 2.0)
    fit = fit_temperature(targets, logits)
    other = minimize(
        lambda log: nll(targets, logits, np.exp(log[0])), [0.0], method="BFGS", tol=1e-10
    )
    assert np.log(fit.temperature) == pytest.approx(other.x[0], abs=5e-6)
    for near in (0.99, 1.01):
        assert nll(targets, logits, fit.temperature * near) > fit.nll_after


def test_pooled_folds_get_one_temperature_between_their_own():
    parts = [overconfident(4000, 6, true, seed) for seed, true in enumerate((1.2, 2.4))]
    own = [fit_temperature(*part).temperature for part in parts]
    together = [np.concatenate([part[i] for part in parts]) for i in (0, 1)]
    assert own[0] * 1.1 < fit_temperature(*together).temperature < own[1] / 1.1


def test_chunks_constants_and_kinds_of_floats_change_nothing(monkeypatch):
    targets, logits = overconfident(300, 4, 1.7)
    whole = fit_temperature(targets, logits)
    monkeypatch.setattr("gpuopt.measure.temperature._CHUNK_VALUES", 40)
    shifted = fit_temperature(targets, logits + np.arange(300)[:, None])
    shares = fit_temperature(targets, log_of_probabilities(softmax(logits)))
    for other in (fit_temperature(targets, logits), shifted, shares):
        assert other.temperature == pytest.approx(whole.temperature, abs=1e-5)
        assert other.nll_after == pytest.approx(whole.nll_after, abs=1e-6)


def test_what_does_not_lower_the_likelihood_is_not_accepted():
    targets, logits = overconfident(50, 3, 1.0)
    exact = fit_temperature(targets, logits / fit_temperature(targets, logits).temperature)
    flat = fit_temperature([0, 1, 2], np.zeros((3, 3)))
    for fit in (exact, flat):
        assert (fit.temperature, fit.is_accepted) == (1.0, False)
        assert fit.nll_after == fit.nll_before
        assert "does not lower" in fit.reason


@pytest.mark.parametrize("scale", [0.5, 4.0, 15.0])
def test_without_an_error_no_temperature_is_best(scale):
    fit = fit_temperature([0, 1, 2], np.eye(3) * scale)
    assert (fit.temperature, fit.is_accepted) == (1.0, False)
    assert "every sample is predicted right" in fit.reason


def test_a_temperature_at_the_bounds_is_none():
    """All wrong: the more careful, the better, without end."""
    fit = fit_temperature([1, 2, 0], np.eye(3) * 4.0)
    assert (fit.temperature, fit.is_accepted) == (1.0, False)
    assert "still grows at temperature 20" in fit.reason


def test_a_rise_is_refused_whatever_the_search_returns(monkeypatch):
    targets, logits = overconfident(400, 4, 1.0)

    class Wrong:
        x, fun = np.log(3.0), nll(targets, logits, 3.0)

    monkeypatch.setattr("scipy.optimize.minimize_scalar", lambda *_, **__: Wrong)
    fit = fit_temperature(targets, logits)
    assert (fit.temperature, fit.is_accepted) == (1.0, False)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0, 20.0])
def test_probabilities_are_powers_that_sum_to_one_and_classes_stay(temperature):
    generator = np.random.default_rng(0)
    given = generator.dirichlet(np.full(7, 0.3), 5000).astype(np.float32)
    result = apply_temperature(given, temperature)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(result.argmax(axis=1), given.argmax(axis=1))
    powers = np.maximum(given.astype(np.float64), np.finfo(np.float32).tiny) ** (1 / temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 20.0])
def test_the_class_stays_in_ties_and_where_fp32_rounds_two_values_together(temperature):
    half = np.float32(0.5)
    above = np.nextafter(half, np.float32(1))
    rows = [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3] * 3, [half, above, 0], [above, half, 0]]
    rows += [[0.0, 1.0, 0.0], [1e-45, 1.0, 1e-38]]
    for columns in (3, 4, 9, 17):  # another length, another way of vector instructions
        given = np.zeros((len(rows), columns), np.float32)
        given[:, -3:] = rows
        result = apply_temperature(given, temperature)
        np.testing.assert_array_equal(result.argmax(axis=1), given.argmax(axis=1))
    assert (apply_temperature(rows, temperature)[:2, 1] >= 0.33).all()


def test_at_temperature_one_nothing_changes_and_what_is_given_is_kept():
    given = np.array([[0.25, 0.75], [0.0, 1.0]], np.float32)
    result = apply_temperature(given, 1.0)
    np.testing.assert_array_equal(result, given)
    result[:] = 0
    apply_temperature(given, 3.0)
    np.testing.assert_array_equal(given, [[0.25, 0.75], [0.0, 1.0]])


def test_merged_probabilities_that_are_fitted_are_those_that_are_applied():
    """Pool, then calibrate: the NLL of the fit is that of what is written."""
    targets, logits = overconfident(800, 5, 2.0)
    _, others = overconfident(800, 5, 2.0, seed=1)
    pooled = ((softmax(logits) + softmax(logits + others / 4)) / 2).astype(np.float32)
    fit = fit_temperature(targets, log_of_probabilities(pooled))
    applied = apply_temperature(pooled, fit.temperature).astype(np.float64)
    shares = applied[np.arange(len(targets)), targets]
    assert -np.log(shares).mean() == pytest.approx(fit.nll_after, abs=1e-6)


def test_a_probability_of_zero_costs_much_but_not_everything():
    fit = fit_temperature([0, 1], log_of_probabilities(np.array([[0.0, 1.0], [0.5, 0.5]])))
    assert np.isfinite(fit.nll_before)


@pytest.mark.parametrize(
    ("targets", "scores", "word"),
    [
        ([0, 1], np.zeros((3, 2)), "one row per target"),
        ([0, 1], np.zeros(2), "one row per target"),
        ([0, 1], np.zeros((2, 2), np.int64), "floats"),
        ([0, 2], np.zeros((2, 2)), "only 2 classes"),
        ([0, -1], np.zeros((2, 2)), "below 0"),
        ([], np.zeros((0, 2)), "with samples"),
        ([0, 1], np.array([[-np.inf, 0.0], [0.0, 0.0]]), "must be finite"),
    ],
)
def test_scores_that_make_no_sense_are_refused(targets, scores, word):
    with pytest.raises(InputError, match=word):
        fit_temperature(targets, scores)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_temperatures_that_make_no_sense_are_refused(temperature):
    with pytest.raises(InputError, match="positive number"):
        apply_temperature([[0.5, 0.5]], temperature)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [[0.5, np.nan]], [[-0.1, 1.1]], [["a"]], [[]]])
def test_probabilities_that_make_no_sense_are_refused(shares):
    with pytest.raises(InputError, match="probabilities must be"):
        apply_temperature(shares, 2.0)
    with pytest.raises(InputError, match="probabilities must be"):
        log_of_probabilities(shares)
