"""Stratified validation split and class weights."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpuopt.data.counter_random import Stream, random_keys
from gpuopt.errors import InputError

__all__ = ["balanced_weights", "stratified_split"]


def stratified_split(
    targets: npt.NDArray[np.int64],
    ratio: float,
    seed: int,
    class_names: Sequence[str],
    rows: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split samples in two, with the share of each class kept and at least one sample in both.

    Args:
        targets: int64 [samples].
        ratio: Share of the second part.
        seed: Seed of the choice.
        class_names: For the error.
        rows: Numbers by which the samples are drawn, so that leaving some out does not move the
            others; by default their places.

    Returns:
        The places of the first and of the second part, each ascending.

    Raises:
        InputError: When a class has a single sample.
    """
    numbers = np.arange(len(targets)) if rows is None else rows
    keys = random_keys(seed, Stream.SPLIT, 0, numbers)
    second: list[npt.NDArray[np.int64]] = []
    for label in np.unique(targets):
        places = np.flatnonzero(targets == label)
        if len(places) < 2:
            raise InputError(
                f"class {class_names[label]} has a single training image: add another, "
                "or remove the class"
            )
        count = min(max(1, round(len(places) * ratio)), len(places) - 1)
        second.append(places[np.argsort(keys[places], kind="stable")[:count]])
    chosen = np.sort(np.concatenate(second))
    return np.setdiff1d(np.arange(len(targets)), chosen), chosen


def balanced_weights(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Weigh samples so that every class counts the same in total.

    Returns:
        float64 [samples], with mean 1.
    """
    labels, places, counts = np.unique(targets, return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = (len(targets) / (len(labels) * counts))[places]
    return weights
