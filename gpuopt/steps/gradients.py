"""Set gradients aside and put them back, without copies."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = [
    "add_gradients",
    "deliver",
    "drop_gradients",
    "optimized_parameters",
    "put_gradients",
    "sum_of",
    "take_gradients",
    "zeros_for_none",
]


def take_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Return the gradients and leave none."""
    taken = [parameter.grad for parameter in parameters]
    for parameter, gradient in zip(parameters, taken, strict=True):
        if gradient is not None:
            parameter.grad = None
    return taken


def drop_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Leave no gradient."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = None


def put_gradients(parameters: Sequence[nn.Parameter], taken: Sequence[Tensor | None]) -> None:
    """Put back what `take_gradients` returned, in place of what is there."""
    for parameter, gradient in zip(parameters, taken, strict=True):
        parameter.grad = gradient


@torch.no_grad()
def add_gradients(parameters: Sequence[nn.Parameter], taken: Sequence[Tensor | None]) -> None:
    """Add the present gradients to those that were taken, and put these back.

    The sums are those that PyTorch makes when it accumulates: taken + present, in place.
    """
    pairs = []
    for parameter, gradient in zip(parameters, taken, strict=True):
        if gradient is None:
            continue
        if parameter.grad is not None:
            pairs.append((gradient, parameter.grad))
        parameter.grad = gradient
    if pairs:
        torch._foreach_add_([old for old, _ in pairs], [new for _, new in pairs])


def deliver(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients as a backward pass does, so that what waits for them is told.

    DistributedDataParallel reduces a bucket when the last of its parameters has had its gradient.
    """
    _Deliver.apply(gradients, *parameters).backward()


def optimized_parameters(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    """Yield an optimizer's parameters; some may not be the module's, those of a loss for instance.

    An offloading optimizer lists its copies on the host, whose gradients it fills by itself.
    """
    copies = {id(copy) for copy in getattr(optimizer, "param_d2h_map", {}).values()}
    for group in optimizer.param_groups:
        yield from (p for p in group["params"] if id(p) not in copies)


def sum_of(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Add two gradients of which either may be missing."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def zeros_for_none(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Return the gradient, or zeros where the loss does not reach the parameter."""
    return torch.zeros_like(parameter) if gradient is None else gradient


class _Deliver(torch.autograd.Function):
    """Has given tensors as its gradients."""

    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, *ctx.gradients
