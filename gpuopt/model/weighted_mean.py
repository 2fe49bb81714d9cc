"""A mean over samples that is exact over ranks."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["WeightedMean"]


class WeightedMean(Metric):
    """The mean of numbers, each of which stands for some samples.

    Lightning's own mean over ranks divides an integer count by their number: of 269 images it
    counts 268. torchmetrics' mean reads every value on the host, which makes a GPU wait.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, mean: Tensor, count: Tensor | int) -> None:
        """Add a mean of `count` samples; may be 0.

        Args:
            mean: One number, on the metric's device.
            count: Samples that it stands for.
        """
        self.total = self.total + mean.detach() * count
        self.count = self.count + count

    def compute(self) -> Tensor:
        """Return the mean over all samples of all ranks."""
        return self.total / self.count.clamp_min(1)
