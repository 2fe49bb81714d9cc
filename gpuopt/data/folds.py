"""Deal training samples into folds: stratified by class, with every group in one piece.

Samples are dealt before unreadable files are left out, so a file that breaks later moves no other
sample to another fold.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpuopt.data.counter_random import Stream, random_keys
from gpuopt.errors import InputError

__all__ = ["assign_folds", "check_folds"]


def assign_folds(
    targets: npt.NDArray[np.int64],
    count: int,
    seed: int,
    groups: Sequence[str] | None = None,
) -> npt.NDArray[np.int64]:
    """Give every sample the number of the fold that validates on it.

    Without groups the folds' sizes, and their samples of each class, differ by one at most. Groups
    are dealt whole, large ones first, each to the fold that has the smallest share of its classes.

    Args:
        targets: int64 [samples].
        count: Number of folds.
        seed: Seed of the choice.
        groups: Name of each sample's group; samples of one group get one fold.

    Returns:
        int64 [samples], each from 0 to `count` - 1.
    """
    keys = random_keys(seed, Stream.FOLDS, 0, np.arange(len(targets)))
    if groups is not None:
        return _deal_groups(targets, count, keys, groups)
    folds = np.empty(len(targets), np.int64)
    # By class and then at random; going on around the circle keeps the folds' sizes equal.
    folds[np.lexsort((keys, targets))] = np.arange(len(targets)) % count
    return folds


def check_folds(
    folds: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    count: int,
    class_names: Sequence[str],
    groups: Sequence[str] | None = None,
) -> None:
    """Refuse folds that cannot all be trained and validated.

    Args:
        folds: int64 [samples], from `assign_folds`, of the samples that can be read.
        targets: int64 [samples].
        count: Number of folds.
        class_names: For the errors.
        groups: Name of each sample's group.

    Raises:
        InputError: For a class with too few images, too few groups, a class that would be missing
            from the training images of a fold, or a fold without images.
    """
    if groups is not None and len(set(groups)) < count:
        raise InputError(
            f"the training images have {len(set(groups))} groups, too few for {count} folds: take "
            "fewer folds (without folds: a larger data.validation_ratio), or add groups"
        )
    for label in np.unique(targets):
        own = folds[targets == label]
        if groups is None and len(own) < count:
            raise InputError(
                f"class {class_names[label]} has {len(own)} training image(s), too few for "
                f"{count} folds: take fewer folds, or add images"
            )
        if len(np.unique(own)) < 2:
            raise InputError(
                f"all images of class {class_names[label]} lie in fold {own[0]}, which leaves none "
                "to train on: add groups with this class, or take another seed or number of folds"
            )
    empty = np.setdiff1d(np.arange(count), folds)
    if len(empty):
        raise InputError(f"fold {empty[0]} has no image that can be read: take fewer folds")


def _deal_groups(
    targets: npt.NDArray[np.int64],
    count: int,
    keys: npt.NDArray[np.uint64],
    groups: Sequence[str],
) -> npt.NDArray[np.int64]:
    _, firsts, group_of = np.unique(np.array(groups), return_index=True, return_inverse=True)
    totals = np.bincount(targets).astype(np.float64)
    counts = np.zeros((len(firsts), len(totals)))  # samples of each class in each group
    np.add.at(counts, (group_of, targets), 1.0)
    sizes = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1.0) ** 2
    dealt = np.zeros((count, len(totals)))
    fold_of_group = np.empty(len(firsts), np.int64)
    for group in np.lexsort((keys[firsts], -sizes)):
        # The fold for which the squared differences between folds grow least; then the smallest.
        fold = np.lexsort((dealt.sum(axis=1), dealt @ shares[group]))[0]
        fold_of_group[group] = fold
        dealt[fold] += counts[group]
    return fold_of_group[group_of]
