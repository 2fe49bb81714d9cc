"""Merge the probabilities of views as they come, in memory that does not grow with the views."""

import torch
from torch import Tensor

from gpuopt.tta.views import View

__all__ = ["OnlineMerge"]


class OnlineMerge:
    """Running weighted mean, or geometric mean, of probabilities in fp32.

    Probabilities are merged, never raw outputs: a geometric mean of logits means nothing.

    Args:
        views: All views, whose weights are used.
        samples: Number of samples.
        geometric: Average logarithms instead, and make the result sum to 1 again.
    """

    def __init__(self, views: tuple[View, ...], samples: int, *, geometric: bool) -> None:
        self._weights = [view.weight / sum(other.weight for other in views) for view in views]
        self._samples = samples
        self._geometric = geometric
        self._sum = self._first = torch.empty(0)

    def add(self, view: int, first_sample: int, log_probabilities: Tensor) -> None:
        """Add what one view says about consecutive samples.

        Args:
            view: Index of the view.
            first_sample: Index of the first of these samples.
            log_probabilities: float32 [m, classes].
        """
        if not len(self._sum):
            self._sum = log_probabilities.new_zeros(self._samples, log_probabilities.shape[1])
            self._first = torch.zeros_like(self._sum)
        rows = slice(first_sample, first_sample + len(log_probabilities))
        terms = log_probabilities if self._geometric else log_probabilities.exp()
        self._sum[rows].add_(terms, alpha=self._weights[view])
        if view == 0:
            self._first[rows] = log_probabilities.exp()

    def result(self) -> tuple[Tensor, Tensor]:
        """Return merged probabilities and those of the first view, both float32 [n, classes]."""
        merged = self._sum.softmax(1) if self._geometric else self._sum
        return merged, self._first
