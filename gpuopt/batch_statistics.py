"""BatchNorm that keeps the statistics it came with: no sample's result depends on another's.

Fine-tuning at a small micro-batch, or at one that changes when memory runs out, computes other
statistics and so another result. With those of the pretrained weights it is the same result.
"""

import functools

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["has_frozen_statistics", "set_frozen_statistics"]


def set_frozen_statistics(network: nn.Module, frozen: bool) -> None:
    """Let every BatchNorm use and keep its running statistics while it trains, or not any more.

    Its weight and bias learn as before. The mode holds through `train` and `eval`.

    Args:
        network: Changed in place.
        frozen: Whether to keep the statistics.
    """
    for part in network.modules():
        if not isinstance(part, _BatchNorm):
            continue
        if frozen:
            part.__dict__["train"] = functools.partial(_stay_in_evaluation, part)
            part.eval()
        elif has_frozen_statistics(part):
            del part.__dict__["train"]
            part.train(network.training)


def has_frozen_statistics(part: nn.Module) -> bool:
    """Tell whether a layer's statistics were frozen by `set_frozen_statistics`."""
    return isinstance(part, _BatchNorm) and "train" in part.__dict__


def _stay_in_evaluation(part: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(part, mode=False)
