"""Folds: nothing on both sides, every sample once, classes spread evenly, the seed decides."""

from collections import defaultdict

import numpy as np
import pytest

from gpuopt.data.folds import assign_folds, check_folds
from gpuopt.errors import InputError

NAMES = ["cat", "dog", "owl"]
COUNTS = (2, 3, 5, 20)
SEEDS = range(12)


def samples(seed, with_groups):
    """Uneven classes; groups of 1 to 9 samples of mixed classes, in random order."""
    generator = np.random.default_rng(seed)
    targets = generator.permutation(np.repeat([0, 1, 2], generator.integers(40, 300, 3)))
    groups = None
    if with_groups:
        sizes = generator.integers(1, 10, len(targets))
        names = [f"g{i}" for i in np.repeat(np.arange(len(sizes)), sizes)[: len(targets)]]
        groups = list(generator.permutation(names))
    return targets, groups


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_group_is_on_both_sides_and_every_fold_is_filled(count, seed):
    targets, groups = samples(seed, with_groups=True)
    folds = assign_folds(targets, count, seed, groups)
    found = defaultdict(set)
    for group, fold in zip(groups, folds, strict=True):
        found[group].add(fold)
    assert all(len(own) == 1 for own in found.values())
    assert set(folds) == set(range(count))
    check_folds(folds, targets, count, NAMES, groups)
    for fold in range(count):
        train, held_out = np.array(groups)[folds != fold], np.array(groups)[folds == fold]
        assert not set(train) & set(held_out)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_classes_and_sizes_differ_by_one_sample_at_most(count, seed):
    targets, _ = samples(seed, with_groups=False)
    folds = assign_folds(targets, count, seed)
    sizes = np.bincount(folds, minlength=count)
    assert sizes.sum() == len(targets)
    assert np.ptp(sizes) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(folds[targets == label], minlength=count)) <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_one_class_are_spread_as_evenly_as_samples(seed):
    targets = np.repeat([0, 1, 2], [60, 40, 20])
    groups = [f"g{i // 2}" for i in range(120)]
    folds = assign_folds(targets, 5, seed, groups)
    for label, expected in enumerate((12, 8, 4)):
        assert np.bincount(folds[targets == label]).tolist() == [expected] * 5


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_mixed_classes_stay_near_the_even_share(seed):
    targets, groups = samples(seed, with_groups=True)
    folds = assign_folds(targets, 5, seed, groups)
    for label in range(3):
        held = np.bincount(folds[targets == label], minlength=5)
        assert np.abs(held - held.mean()).max() <= 9  # the largest group


@pytest.mark.parametrize("with_groups", [False, True])
def test_the_seed_alone_decides(with_groups):
    targets, groups = samples(3, with_groups)
    first = assign_folds(targets, 5, 1, groups)
    assert np.array_equal(first, assign_folds(targets, 5, 1, groups))
    assert not np.array_equal(first, assign_folds(targets, 5, 2, groups))


def test_a_class_with_fewer_images_than_folds_is_refused_by_name():
    targets = np.repeat([0, 1, 2], [9, 9, 4])
    with pytest.raises(InputError, match=r"class owl has 4 training image.*take fewer folds") as e:
        check_folds(assign_folds(targets, 5, 0), targets, 5, NAMES)
    assert "\n" not in str(e.value)
    check_folds(assign_folds(targets, 4, 0), targets, 4, NAMES)


def test_fewer_groups_than_folds_are_refused():
    targets, groups = np.tile([0, 1, 2], 4), [f"g{i // 3}" for i in range(12)]
    with pytest.raises(InputError, match="have 4 groups, too few for 5 folds: take"):
        check_folds(assign_folds(targets, 5, 0, groups), targets, 5, NAMES, groups)
    check_folds(assign_folds(targets, 4, 0, groups), targets, 4, NAMES, groups)


def test_a_class_of_one_group_is_refused_as_it_would_not_be_trained():
    targets, groups = np.array([0, 1, 0, 1, 2, 2]), list("aabbcc")
    with pytest.raises(InputError, match=r"all images of class owl lie in fold ., which leaves"):
        check_folds(assign_folds(targets, 2, 0, groups), targets, 2, NAMES, groups)
