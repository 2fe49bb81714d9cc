"""Optimizers as small factories: the configuration names one, the classifier gives parameters."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gpuopt.model.offload import offloaded

__all__ = ["AdamW", "Sgd", "parameter_groups"]


@dataclass(frozen=True)
class AdamW:
    """AdamW, as one fused kernel where the device has it.

    Attributes:
        weight_decay: Decoupled decay of weight matrices and filters.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the denominator.
        offload: Keep the moments in host memory and take the step there; needs torchao and CUDA.
    """

    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    offload: bool = False

    def __call__(self, groups: list[dict[str, Any]], *, fused: bool) -> Optimizer:
        """Build the optimizer.

        Args:
            groups: Parameter groups from `parameter_groups`.
            fused: Whether the fused kernel may be used; Lightning 2.6 refuses it together with
                a gradient scaler and clipping.
        """
        options: dict[str, Any] = {"betas": (self.beta1, self.beta2), "eps": self.eps}
        if self.offload:
            return offloaded(torch.optim.AdamW, groups, **options)
        return torch.optim.AdamW(groups, **options, fused=fused or None)


@dataclass(frozen=True)
class Sgd:
    """SGD with Nesterov momentum.

    Attributes:
        weight_decay: L2 decay of weight matrices and filters.
        momentum: Share of the last update that is kept.
        offload: Keep the momentum in host memory and take the step there; needs torchao and CUDA.
    """

    weight_decay: float = 1e-4
    momentum: float = 0.9
    offload: bool = False

    def __call__(self, groups: list[dict[str, Any]], *, fused: bool) -> Optimizer:
        """Build the optimizer; arguments as for `AdamW`."""
        options: dict[str, Any] = {"momentum": self.momentum, "nesterov": self.momentum > 0}
        if self.offload:
            return offloaded(torch.optim.SGD, groups, **options)
        return torch.optim.SGD(groups, **options, fused=fused or None)


def parameter_groups(
    network: nn.Module,
    head: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    head_learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Split parameters by learning rate (backbone, head) and decay.

    Vectors (biases, norm scales, layer scales) are not decayed: shrinking them does not
    regularise, and timm's own recipes leave them alone as well.
    """
    head_ids = {id(parameter) for parameter in head}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in head_ids, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": head_learning_rate if is_head else learning_rate,
            "weight_decay": weight_decay if decayed else 0.0,
            "name": f"{'head' if is_head else 'backbone'}{'' if decayed else ' (no decay)'}",
        }
        for (is_head, decayed), parameters in sorted(groups.items())
    ]
