"""Set gradients aside and put them back, without copies."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["add_gradients", "deliver", "drop_gradients", "put_gradients", "take_gradients"]


def take_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Return the gradients and leave none."""
    taken = [parameter.grad for parameter in parameters]
    drop_gradients(parameters)
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


class _Deliver(torch.autograd.Function):
    """Has given tensors as its gradients."""

    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, *ctx.gradients
