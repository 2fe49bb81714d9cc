"""The fused form of somebody's optimizer, to see what it would save."""

from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["fused_twin"]

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
_DEVICES = ("cpu", "cuda")


def fused_twin(optimizer: Optimizer) -> Optimizer | None:
    """Return the same optimizer as one fused kernel, with a learning rate of 0.

    It has the same parameters and leaves them as they are.

    Args:
        optimizer: Of any class.

    Returns:
        None where it is fused already, or PyTorch has no fused form of it.
    """
    groups = optimizer.param_groups
    if type(optimizer) not in _FUSED or any(group.get("fused") for group in groups):
        return None
    parameters = [parameter for group in groups for parameter in group["params"]]
    if any(p.device.type not in _DEVICES or not p.is_floating_point() for p in parameters):
        return None
    options = {"fused": True, "foreach": False, "lr": 0.0, "differentiable": False}
    if type(optimizer) is torch.optim.Adagrad and parameters[0].device.type != "cpu":
        return None
    kind: Any = type(optimizer)
    try:
        twin: Optimizer = kind([{**group, **options} for group in groups], lr=0.0, fused=True)
    except (RuntimeError, ValueError):  # an option that has no fused form
        return None
    return twin
