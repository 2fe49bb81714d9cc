import numpy as np
import pytest
from sklearn.metrics import f1_score

from gpuopt.errors import InputError
from gpuopt.measure import (
    accuracy,
    bootstrap_interval,
    class_counts,
    grouped_bootstrap_interval,
    interval_by_group,
    macro_f1,
    paired_bootstrap_difference,
)


def noisy_copy(targets, share_right, classes, generator):
    other = generator.integers(0, classes, len(targets))
    return np.where(generator.random(len(targets)) < share_right, targets, other)


def test_the_interval_equals_that_of_drawing_samples_one_by_one():
    generator = np.random.default_rng(1)
    targets = generator.integers(0, 6, 400)
    predictions = noisy_copy(targets, 0.8, 6, generator)
    drawn = bootstrap_interval(targets, predictions, accuracy, resamples=4000)
    rows = generator.integers(0, 400, (4000, 400))
    values = (targets == predictions)[rows].mean(1)
    low, high = np.quantile(values, (0.025, 0.975))
    assert drawn.value == pytest.approx((targets == predictions).mean())
    assert drawn.low == pytest.approx(low, abs=0.004)
    assert drawn.high == pytest.approx(high, abs=0.004)


def test_the_value_is_the_metric_itself_and_the_seed_decides_the_rest():
    generator = np.random.default_rng(2)
    targets = generator.integers(0, 17, 500)
    predictions = noisy_copy(targets, 0.9, 17, generator)
    first = bootstrap_interval(targets, predictions)
    assert first.value == pytest.approx(f1_score(targets, predictions, average="macro"))
    assert first.low < first.value < first.high
    assert first == bootstrap_interval(targets, predictions)
    assert first != bootstrap_interval(targets, predictions, seed=1)
    wide = bootstrap_interval(targets, predictions, level=0.99)
    assert wide.low < first.low
    assert wide.high > first.high


def test_resampling_in_blocks_changes_nothing_but_memory(monkeypatch):
    generator = np.random.default_rng(3)
    targets = generator.integers(0, 5, 200)
    predictions = noisy_copy(targets, 0.7, 5, generator)
    whole = bootstrap_interval(targets, predictions, resamples=300)
    monkeypatch.setattr("gpuopt.measure.bootstrap._LARGEST_BLOCK", 100)
    assert bootstrap_interval(targets, predictions, resamples=300) == whole


@pytest.mark.parametrize("classes", [10, 60])
def test_intervals_cover_the_true_f1_about_as_often_as_they_say(classes):
    """Simulated test sets of a model whose true macro-F1 is known from its own confusion."""
    generator = np.random.default_rng(4)
    confusion = 0.1 * generator.dirichlet(np.full(classes, 0.3), classes) + 0.9 * np.eye(classes)
    truth = float(macro_f1(class_counts(confusion / classes)))
    covered = 0
    for _ in range(200):
        targets = generator.integers(0, classes, 30 * classes)
        uniform = generator.random(len(targets))[:, None]
        predictions = (uniform > confusion.cumsum(1)[targets]).sum(1).clip(max=classes - 1)
        interval = bootstrap_interval(targets, predictions, resamples=300)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_many_small_classes_do_not_pull_the_interval_down():
    """Resampling lowers macro-F1 here; plain percentiles would centre 0.012 below the value."""
    generator = np.random.default_rng(8)
    shifts = []
    for _ in range(20):
        targets = np.repeat(np.arange(60), 8)
        predictions = noisy_copy(targets, 0.8, 60, generator)
        interval = bootstrap_interval(targets, predictions, resamples=300)
        shifts.append((interval.low + interval.high) / 2 - interval.value)
    assert -0.005 < np.mean(shifts) < 0.01


def test_a_difference_is_paired():
    """Two models that share nearly all errors differ by less than their intervals overlap."""
    generator = np.random.default_rng(5)
    targets = generator.integers(0, 10, 2000)
    first = noisy_copy(targets, 0.8, 10, generator)
    second = first.copy()
    wrong = np.flatnonzero(first != targets)[:30]
    second[wrong] = targets[wrong]
    difference = paired_bootstrap_difference(targets, first, second)
    expected = f1_score(targets, second, average="macro") - f1_score(
        targets, first, average="macro"
    )
    assert difference.value == pytest.approx(expected)
    assert difference.excludes_zero
    one, two = bootstrap_interval(targets, first), bootstrap_interval(targets, second)
    assert one.high > two.low
    assert difference.high - difference.low < (one.high - one.low) / 2
    reverse = paired_bootstrap_difference(targets, second, first)
    assert reverse.value == pytest.approx(-difference.value)
    assert reverse.high < 0


def test_the_same_predictions_do_not_differ():
    targets = np.arange(50) % 5
    predictions = (targets + (np.arange(50) < 5)) % 5
    difference = paired_bootstrap_difference(targets, predictions, predictions)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert not difference.excludes_zero


def test_equally_good_models_are_rarely_told_apart():
    generator = np.random.default_rng(6)
    findings = 0
    for _ in range(200):
        targets = generator.integers(0, 8, 300)
        first, second = (noisy_copy(targets, 0.85, 8, generator) for _ in range(2))
        difference = paired_bootstrap_difference(targets, first, second, resamples=300)
        findings += difference.excludes_zero
    assert 1 <= findings <= 22


def test_perfect_predictions_have_an_interval():
    interval = bootstrap_interval([0, 1, 2], [0, 1, 2])
    assert (interval.value, interval.low, interval.high) == (1, 1, 1)


def test_large_class_numbers_cost_nothing():
    assert bootstrap_interval([0, 10**12], [0, 10**12]).value == 1


def test_groups_are_measured_alone_and_may_overlap():
    generator = np.random.default_rng(7)
    targets = generator.integers(0, 4, 400)
    predictions = noisy_copy(targets, 0.7, 4, generator)
    rotated = np.arange(400) % 2 == 0
    groups = {"rotated": rotated, "all": np.ones(400, bool), "none": np.zeros(400, bool)}
    result = interval_by_group(targets, predictions, groups, resamples=100)
    assert list(result) == ["rotated", "all"]
    assert result["rotated"] == bootstrap_interval(
        targets[rotated], predictions[rotated], resamples=100
    )
    for mask in (np.ones(3, bool), np.ones(400, int)):
        with pytest.raises(InputError, match="'odd'"):
            interval_by_group(targets, predictions, {"odd": mask})


@pytest.mark.parametrize("options", [{"resamples": 1}, {"level": 1.0}, {"level": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(InputError):
        bootstrap_interval([0, 1], [0, 1], **options)


def test_groups_that_err_together_give_a_wider_interval():
    generator = np.random.default_rng(5)
    targets = np.repeat(generator.integers(0, 4, 50), 8)
    wrong = np.repeat(generator.random(50) < 0.3, 8)
    predictions = np.where(wrong, (targets + 1) % 4, targets)
    groups = [f"g{i // 8}" for i in range(400)]
    single = bootstrap_interval(targets, predictions, accuracy)
    grouped = grouped_bootstrap_interval(targets, predictions, groups, accuracy)
    assert grouped.value == single.value
    # Eight samples that are right or wrong together count as one.
    ratio = (grouped.high - grouped.low) / (single.high - single.low)
    assert ratio == pytest.approx(8**0.5, rel=0.15)
    assert grouped == grouped_bootstrap_interval(targets, predictions, groups, accuracy)


def test_groups_of_one_sample_are_samples():
    generator = np.random.default_rng(6)
    targets = generator.integers(0, 5, 400)
    predictions = noisy_copy(targets, 0.8, 5, generator)
    single = bootstrap_interval(targets, predictions)
    grouped = grouped_bootstrap_interval(targets, predictions, [str(i) for i in range(400)])
    assert grouped.low == pytest.approx(single.low, abs=0.01)
    assert grouped.high == pytest.approx(single.high, abs=0.01)
    with pytest.raises(InputError, match="399 groups"):
        grouped_bootstrap_interval(targets, predictions, ["a"] * 399)


def test_a_difference_of_groups_is_less_sure_than_one_of_samples():
    generator = np.random.default_rng(5)
    group_of = np.repeat(np.arange(30), 20)
    targets = generator.integers(0, 3, 600)
    first = noisy_copy(targets, 0.6, 3, generator)
    # The second is right in whole groups.
    second = np.where(generator.random(30)[group_of] < 0.5, targets, first)
    groups = [f"g{number}" for number in group_of]
    alone = paired_bootstrap_difference(targets, first, second)
    grouped = paired_bootstrap_difference(targets, first, second, groups=groups)
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    single = paired_bootstrap_difference(targets, first, second, groups=list(map(str, range(600))))
    assert single.high - single.low == pytest.approx(alone.high - alone.low, rel=0.15)
    with pytest.raises(InputError, match="2 groups' names do not go with 600"):
        paired_bootstrap_difference(targets, first, second, groups=["a", "b"])
