import numpy as np
import pytest

from gpuopt.tta import parse_views
from gpuopt.tta.held_out import HeldOutScores, log_softmax
from gpuopt.tta.selection import calibrated_log_likelihood, halves, select_views
from gpuopt.tta.views import View

VIEWS = parse_views([{}, {"rotate": 90}, {"rotate": 180}, {"hflip": True}])


def logits(targets, strength, seed, classes=4):
    """Outputs that point at the true class with some strength, in noise of their own."""
    noise = np.random.default_rng(seed).normal(size=(len(targets), classes))
    return noise + strength * np.eye(classes)[targets]


def made(strengths, samples=400, **options):
    targets = np.arange(samples) % 4
    arrays = [
        log_softmax(logits(targets, strength, seed)).astype(np.float32)
        for seed, strength in enumerate(strengths)
    ]
    return HeldOutScores(VIEWS[: len(arrays)], arrays, targets, **options)


def names(steps):
    return [view.name for view in steps[-1].views]


def test_views_come_by_what_they_add_and_a_useless_one_never():
    # The last one knows nothing; the third says what the first says.
    scores = made([1.5, 2.0, 1.5, 0.0])
    arrays = [*scores.log_probabilities]
    arrays[2] = arrays[0]
    steps = select_views(HeldOutScores(VIEWS, arrays, scores.targets))
    assert names(steps) == ["rotate 90", "identity"]
    assert [len(step.views) for step in steps] == [1, 2]
    assert steps[0].log_likelihood < steps[1].log_likelihood


def test_equal_views_are_chosen_in_their_order_and_once():
    scores = made([1.5])
    same = HeldOutScores(VIEWS, [scores.log_probabilities[0]] * 4, scores.targets)
    assert names(select_views(same)) == ["identity"]


def test_the_search_ends_at_its_most_views_and_forgets_weights():
    steps = select_views(made([1.0, 1.0, 1.0, 1.0]), most=2)
    assert len(steps) == 2
    heavy = parse_views([{"weight": 9}, {"rotate": 90}])
    found = select_views(
        HeldOutScores(heavy, made([1.0, 1.0]).log_probabilities, made([1]).targets)
    )
    assert {view.weight for view in found[-1].views} == {1.0}


def test_very_many_images_are_chosen_by_a_part(monkeypatch):
    scores = made([1.5, 2.0, 1.5], samples=4000)
    whole = select_views(scores)
    monkeypatch.setattr("gpuopt.tta.selection._MOST_VALUES", 4 * 1000)
    part = select_views(scores)
    assert part[0].views == whole[0].views
    assert part[0].log_likelihood != whole[0].log_likelihood


def test_being_sure_is_worth_nothing_and_the_order_of_classes_all():
    targets = np.arange(400) % 4
    honest = log_softmax(logits(targets, 2.0, 0))
    for temperature in (0.3, 1.0, 4.0):
        found = calibrated_log_likelihood(log_softmax(honest / temperature), targets)
        assert found == pytest.approx(calibrated_log_likelihood(honest, targets), abs=1e-4)
    plain = honest[np.arange(400), targets].mean()
    assert calibrated_log_likelihood(honest, targets) >= plain
    assert calibrated_log_likelihood(honest, targets) > calibrated_log_likelihood(
        log_softmax(logits(targets, 1.0, 0)), targets
    )


def test_both_halves_have_the_classes_and_share_no_image_or_group():
    targets = np.repeat(np.arange(3), [10, 20, 31])
    first, second = halves(targets)
    assert sorted([*first, *second]) == list(range(61))
    assert (np.bincount(targets[first]) == [5, 10, 15]).all() or len(first) == 31
    for label in range(3):
        counts = [int((targets[half] == label).sum()) for half in (first, second)]
        assert abs(counts[0] - counts[1]) <= 1
    assert not np.array_equal(first, halves(targets, seed=1)[0])
    groups = [f"g{i // 5}" for i in range(60)]
    first, second = halves(targets[:60], groups)
    assert not {groups[i] for i in first} & {groups[i] for i in second}
    assert View() in VIEWS
