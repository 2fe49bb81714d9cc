"""An exponential moving average of the weights that also helps short runs."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

__all__ = ["MovingAverage"]


class MovingAverage(WeightAveraging):
    """Averages weights and buffers after every optimizer step.

    The decay warms up as (1 + n) / (10 + n): with a constant 0.999 a run of 156 steps would end
    near its random start (macro-F1 0.18, where the raw weights have 0.88 and this one 0.87).
    Validation, `state_dict` in checkpoints and the trained model use the average.

    Args:
        decay: Largest share of the old average that is kept per step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self._masks: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        super().__init__(use_buffers=True, multi_avg_fn=self._average)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the average; what was known of another module is forgotten."""
        self._masks = {}
        super().setup(trainer, pl_module, stage)

    def _average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        # Called once per device and dtype.
        if not averaged[0].is_floating_point():  # counters of BatchNorm have no mean
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)
            return
        # Not `count`, which lies on the device: reading it would wait for the queued work.
        updates = self._latest_update_step
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(averaged, current, 1.0 - decay)
        for place in self._masks_among(current):
            averaged[place].copy_(current[place])

    def _masks_among(self, tensors: list[Tensor]) -> list[int]:
        """Tell which hold infinities, as masks of attention do: their difference is no number."""
        key = tensors[0].device, tensors[0].dtype
        if key not in self._masks:  # looked at once only: the device is waited for
            flags = torch.stack([tensor.isinf().any() for tensor in tensors]).tolist()
            self._masks[key] = [place for place, flag in enumerate(flags) if flag]
        return self._masks[key]
