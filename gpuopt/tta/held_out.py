"""What each view alone says about images that its model was not trained on. NumPy only.

From it any policy of these views is put together without another forward pass: its probabilities
are the same merge as `gpuopt.tta.merging` makes, up to the rounding of what was stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpuopt.errors import InputError
from gpuopt.tta.views import View

__all__ = ["HeldOutScores", "log_softmax", "safe_log"]

# Images whose probabilities are in fp64 at a time.
_BLOCK_VALUES = 4_000_000
_LEAST_PROBABILITY = 1e-40


@dataclass(frozen=True, eq=False)
class HeldOutScores:
    """Log-probabilities by view.

    Attributes:
        views: Each once; their weights are not used.
        log_probabilities: Of each view, float16 or float32 [n, classes]; may be memory-mapped.
        targets: True classes, int64 [n].
        groups: Group of each image, [n], where images of one group err together.
        folds: Number of models that the images were shared out to, each to one; 1 without folds.
    """

    views: tuple[View, ...]
    log_probabilities: Sequence[NDArray[np.floating]]
    targets: NDArray[np.int64]
    groups: Sequence[str] | None = None
    folds: int = 1

    def __post_init__(self) -> None:
        if len(self.views) != len(self.log_probabilities) or not self.views:
            raise InputError(
                f"{len(self.log_probabilities)} arrays of log-probabilities do not go with "
                f"{len(self.views)} views"
            )
        shapes = {array.shape for array in self.log_probabilities}
        if len(shapes) > 1 or any(len(self.targets) != shape[0] for shape in shapes):
            raise InputError(
                f"log-probabilities of shapes {sorted(shapes)} do not go with "
                f"{len(self.targets)} images"
            )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.log_probabilities[0].shape[1])

    def take(self, rows: NDArray[np.int64]) -> "HeldOutScores":
        """Return some images, copied into memory."""
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        arrays = [np.asarray(array[rows]) for array in self.log_probabilities]
        return replace(self, log_probabilities=arrays, targets=self.targets[rows], groups=groups)

    def place(self, view: View) -> int:
        """Return the index of a view, whatever its weight.

        Raises:
            InputError: When it was not scored.
        """
        for index, known in enumerate(self.views):
            if known.operations == view.operations:
                return index
        raise InputError(f"the view '{view.name}' was not scored")

    def merged(self, views: Sequence[View], merge: str = "mean") -> NDArray[np.float64]:
        """Merge views by their weights, as test-time augmentation does.

        Args:
            views: Some of the views.
            merge: `mean`, or `geometric` for the renormalised geometric mean.

        Returns:
            Log-probabilities, float64 [n, classes].
        """
        total = sum(view.weight for view in views)
        result = np.zeros((len(self.targets), self.classes))
        step = max(1, _BLOCK_VALUES // self.classes)
        for start in range(0, len(result), step):
            rows = slice(start, start + step)
            for view in views:
                scores = self.log_probabilities[self.place(view)][rows].astype(np.float64)
                terms = scores if merge == "geometric" else np.exp(scores)
                result[rows] += view.weight / total * terms
        return log_softmax(result) if merge == "geometric" else safe_log(result)

    def classes_by(self, views: Sequence[View], merge: str = "mean") -> NDArray[np.int64]:
        """Return the most probable class of each image after merging views, int64 [n]."""
        classes: NDArray[np.int64] = self.merged(views, merge).argmax(axis=1)
        return classes


def safe_log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take logarithms, of a zero that of a number too small to matter."""
    logarithms: NDArray[np.float64] = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    return logarithms


def log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn unnormalised log-probabilities [n, classes] into such that sum to 1."""
    shifted = values - values.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
