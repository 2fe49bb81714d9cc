import numpy as np
import pytest
from sklearn.metrics import f1_score

from gpuopt.errors import InputError
from gpuopt.tta import TestTimeAugmentation, parse_views
from gpuopt.tta.frontier import score_policies
from gpuopt.tta.held_out import HeldOutScores, log_softmax
from gpuopt.tta.selection import halves

VIEWS = parse_views([{}, {"rotate": 90}, {"rotate": 180}, {"hflip": True}])
TURNS = TestTimeAugmentation("turns", [{}, {"rotate": 90}, {"rotate": 180}])
MIRROR = TestTimeAugmentation("mirror", [{"hflip": True, "weight": 2}, {}], merge="geometric")


def made(samples=600, groups=None):
    """Three views that help each other, and one that only harms."""
    targets = np.arange(samples) % 4
    arrays = []
    for seed, strength in enumerate([2.0, 2.0, 2.0, -1.0]):
        noise = np.random.default_rng(seed).normal(size=(samples, 4))
        arrays.append(log_softmax(noise + strength * np.eye(4)[targets]).astype(np.float16))
    return HeldOutScores(VIEWS, arrays, targets, groups)


@pytest.fixture(scope="module")
def found():
    return score_policies(made(), [TURNS, MIRROR], resamples=300)


def test_given_policies_and_those_of_the_search_are_judged(found):
    names = [policy.name for policy in found.policies]
    # With all its views the search comes to what `turns` is.
    assert names == ["none", "turns", "mirror", "greedy_2"] or names == [
        *("none", "turns", "mirror", "greedy_1", "greedy_2")
    ]
    assert (found.selection_images, found.report_images) == (300, 300)
    by_name = {policy.name: policy for policy in found.policies}
    assert by_name["none"].difference is None
    assert by_name["turns"].difference.low > 0
    assert by_name["mirror"].difference.high < 0
    assert [p.is_preset for p in found.policies] == [not n.startswith("greedy") for n in names]
    assert by_name["turns"].log_likelihood > by_name["greedy_2"].log_likelihood


@pytest.mark.parametrize("views", [[{}], TURNS.views])
def test_an_own_none_is_judged_as_what_it_is(views):
    own = TestTimeAugmentation("none", views)
    found = score_policies(made(), [own, MIRROR], resamples=50).policies
    plain = found[0]
    assert (len(plain.views), plain.difference) == (1, None)
    by_name = {policy.name: policy for policy in found}
    assert [view.mapping for view in by_name["none"].views] == views
    assert by_name["none"].is_preset
    assert plain.is_preset == (plain.name == "none")  # else `tta=` has no word for it


def test_scores_are_of_the_half_that_chose_nothing(found):
    scores = made()
    chosen_by, reported = halves(scores.targets)
    turns = found.policies[1]
    classes = scores.classes_by(turns.views)
    targets = scores.targets

    def f1(rows):
        return f1_score(targets[rows], classes[rows], average="macro")

    assert turns.macro_f1.value == pytest.approx(f1(reported))
    assert turns.selection_f1 == pytest.approx(f1(chosen_by))
    assert turns.macro_f1.low < turns.macro_f1.value < turns.macro_f1.high
    plain = scores.classes_by(VIEWS[:1])
    gain = f1(reported) - f1_score(targets[reported], plain[reported], average="macro")
    assert turns.difference.value == pytest.approx(gain)


def test_the_other_half_has_no_say_in_the_choice():
    scores = made()
    _, reported = halves(scores.targets)
    arrays = [array.copy() for array in scores.log_probabilities]
    for array in arrays:
        array[reported] = np.log(0.25)
    blind = score_policies(
        HeldOutScores(VIEWS, arrays, scores.targets), [TURNS, MIRROR], resamples=20
    )
    usual = score_policies(scores, [TURNS, MIRROR], resamples=20)
    for one, other in zip(blind.policies, usual.policies, strict=True):
        assert (one.views, one.selection_f1) == (other.views, other.selection_f1)
        assert one.log_likelihood == other.log_likelihood
        assert one.macro_f1 != other.macro_f1


def test_images_of_a_group_err_together(found):
    groups = [f"g{i // 20}" for i in range(600)]
    grouped = score_policies(made(groups=groups), [TURNS], resamples=300)
    assert grouped.report_images == 300
    assert grouped.policies[1].macro_f1 != found.policies[1].macro_f1


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (None, "3 images for validation are too few"),
        (["a"] * 8, "1 groups of images for validation are too few"),
        (["a"] * 4 + ["b"] * 4, "2 groups of images"),
        (["a"] * 6 + ["b", "c"], "3 groups of images"),
    ],
)
def test_too_few_images_or_groups_are_refused(groups, words):
    samples = 3 if groups is None else len(groups)
    with pytest.raises(InputError, match=f"{words}.*larger data.validation_ratio"):
        score_policies(made(samples, groups), [TURNS])


def test_two_images_or_groups_in_a_half_are_enough():
    groups = [f"g{i // 2}" for i in range(8)]
    for scores in (made(4), made(8, groups)):
        assert score_policies(scores, [TURNS], resamples=20).policies
