"""Losses held by a module that divide by something else than the number of samples."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gpuopt.steps.batch_parts import tensors_of

__all__ = ["ignores_some", "is_weighted"]


def is_weighted(part: nn.Module) -> bool:
    """Tell whether it is a loss that divides by the sum of its class weights."""
    return _is_mean(part) and part.weight is not None


def ignores_some(parts: Iterable[nn.Module], batch: Any) -> bool:
    """Tell whether one of the losses leaves out labels of the batch, and divides by the others.

    Labels are tensors of int64, as the losses want them. Waits for the device.
    """
    found: list[Any] = [part for part in parts if _is_mean(part)]  # losses, which have the index
    ignored = {int(part.ignore_index) for part in found}
    labels = [t for t in tensors_of(batch) if t.dtype == torch.int64] if ignored else []
    return any(bool((tensor == index).any()) for tensor in labels for index in ignored)


def _is_mean(part: nn.Module) -> bool:
    return isinstance(part, (nn.CrossEntropyLoss, nn.NLLLoss)) and part.reduction == "mean"
