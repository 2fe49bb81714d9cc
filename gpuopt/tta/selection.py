"""Choose views one by one, by how probable they make the true classes once calibrated.

Greedy policy search (Molchanov et al., arXiv:2002.09103): the likelihood says more about a view
than macro-F1, which moves in steps of an image; calibrated, it does not favour a merge for being
less sure of itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuopt.data.folds import assign_folds
from gpuopt.errors import InputError
from gpuopt.measure import fit_temperature
from gpuopt.tta.held_out import HeldOutScores, safe_log
from gpuopt.tta.views import View

__all__ = ["SelectedViews", "calibrated_log_likelihood", "halves", "select_views"]

_MOST_VIEWS = 15
_FEWEST_IN_A_HALF = 2
# In nats per image; what is gained below that is noise.
_LEAST_GAIN = 1e-4
# Images x classes that the search looks at; with more a stratified part of the images.
_MOST_VALUES = 2_000_000


@dataclass(frozen=True)
class SelectedViews:
    """A step of the search.

    Attributes:
        views: All that are chosen by now, in the order of their choice.
        log_likelihood: Calibrated, mean over the images, in nats.
    """

    views: tuple[View, ...]
    log_likelihood: float


def halves(
    targets: NDArray[np.int64], groups: Sequence[str] | None = None, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split images in two of the same classes, with every group in one piece.

    Args:
        targets: True classes, int64 [n].
        groups: Group of each image.
        seed: Seed of the split.

    Returns:
        Rows to select on and rows to report on, each ascending.

    Raises:
        InputError: When a half has fewer than two images, or groups.
    """
    half = assign_folds(targets, 2, seed, groups)
    found = np.flatnonzero(half == 0), np.flatnonzero(half == 1)
    counts = [len(rows if groups is None else {groups[int(row)] for row in rows}) for rows in found]
    if min(counts) < _FEWEST_IN_A_HALF:
        kind = "images" if groups is None else "groups of images"
        raise InputError(
            f"{sum(counts)} {kind} for validation are too few to choose views by one half and to "
            "judge them by the other: train with a larger data.validation_ratio"
        )
    return found


def select_views(scores: HeldOutScores, most: int = _MOST_VIEWS) -> list[SelectedViews]:
    """Add the view that helps the calibrated likelihood most, until none helps.

    Args:
        scores: The images to select on.
        most: Views at most.

    Returns:
        The state after each added view.
    """
    scores = _bounded(scores)
    probabilities = [np.exp(array.astype(np.float64)) for array in scores.log_probabilities]
    left = list(range(len(scores.views)))
    total = np.zeros_like(probabilities[0])
    steps: list[SelectedViews] = []
    chosen: list[int] = []
    while left and len(chosen) < most:
        count = len(chosen) + 1
        found = [
            calibrated_log_likelihood(safe_log((total + probabilities[i]) / count), scores.targets)
            for i in left
        ]
        best = int(np.argmax(found))  # of equal ones the first, which is the plainest
        if steps and found[best] < steps[-1].log_likelihood + _LEAST_GAIN:
            break
        chosen.append(left.pop(best))
        total += probabilities[chosen[-1]]
        views = tuple(View(scores.views[i].operations) for i in chosen)
        steps.append(SelectedViews(views, found[best]))
    return steps


def calibrated_log_likelihood(
    log_probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> float:
    """Return the mean log-likelihood at the temperature that is fitted to it, in nats.

    Args:
        log_probabilities: float64 [n, classes].
        targets: True classes, int64 [n].
    """
    return -fit_temperature(targets, log_probabilities).nll_after


def _bounded(scores: HeldOutScores) -> HeldOutScores:
    """Take a part of very many images; of 1,000 classes 2,000 images are enough to choose by."""
    parts = -(-len(scores.targets) * scores.classes // _MOST_VALUES)
    if parts < 2:
        return scores.take(np.arange(len(scores.targets)))
    return scores.take(np.flatnonzero(assign_folds(scores.targets, parts, 0) == 0))
