"""The factor that Lightning puts before a loss: the scaler of fp16, and the window's division."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from gpuopt.errors import InputError
from gpuopt.steps.accumulation_window import loss_divisor

__all__ = ["LossScale"]


class LossScale:
    """Knows the factor before Lightning has applied it, for the parts that go backwards earlier.

    Args:
        trainer: Scales and divides.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._trainer = trainer
        self._is_known = False

    def foreseen(self, loss: Tensor) -> Tensor:
        """Return the factor that Lightning will put before the loss when it has all of it."""
        one = loss.detach().new_ones(())
        scaler: Any = getattr(self._trainer.precision_plugin, "scaler", None)
        scaled: Tensor = one if scaler is None else scaler.scale(one)
        divided: Tensor = scaled / loss_divisor(self._trainer)
        return divided

    def check(self, foreseen: Tensor | None, scale: Tensor) -> None:
        """Look once whether the earlier parts had the factor that the last one has.

        Raises:
            InputError: When Lightning has done something else.
        """
        if foreseen is None or self._is_known:
            return
        if not torch.allclose(foreseen.double(), scale.double(), rtol=1e-6):
            raise InputError(
                f"{type(self._trainer.precision_plugin).__name__} scales the loss in a way that "
                "OomRecovery does not know: use callbacks.oom_recovery.enabled=false"
            )
        self._is_known = True
