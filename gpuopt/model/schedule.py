"""Learning-rate schedules whose warm-up counts samples, so that no batch size changes it."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["ConstantSchedule", "CosineSchedule"]


@dataclass(frozen=True)
class CosineSchedule:
    """A linear warm-up, then half a cosine.

    Attributes:
        warmup_samples: Samples until the full learning rate; at most half of the run is used.
        final_ratio: Learning rate at the end / at the top.
    """

    warmup_samples: int = 0
    final_ratio: float = 0.0

    def __call__(
        self, optimizer: Optimizer, *, total_steps: int, global_batch_size: int
    ) -> LambdaLR:
        """Build the scheduler, to be stepped once per optimizer step."""
        warmup = _warmup_steps(self.warmup_samples, total_steps, global_batch_size)

        def ratio(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
            cosine = (1 + math.cos(math.pi * progress)) / 2
            return self.final_ratio + (1 - self.final_ratio) * cosine

        return LambdaLR(optimizer, ratio)


@dataclass(frozen=True)
class ConstantSchedule:
    """A linear warm-up, then a constant learning rate.

    Attributes:
        warmup_samples: Samples until the full learning rate; at most half of the run is used.
    """

    warmup_samples: int = 0

    def __call__(
        self, optimizer: Optimizer, *, total_steps: int, global_batch_size: int
    ) -> LambdaLR:
        """Build the scheduler, to be stepped once per optimizer step."""
        warmup = _warmup_steps(self.warmup_samples, total_steps, global_batch_size)
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)))


def _warmup_steps(samples: int, total_steps: int, global_batch_size: int) -> int:
    return min(math.ceil(samples / global_batch_size), total_steps // 2)
