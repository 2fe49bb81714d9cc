"""An optimizer's own memory: taken before the first step, and watched for half-done updates."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

__all__ = ["make_state", "try_update_memory", "writes_so_far"]


def make_state(optimizer: Optimizer) -> None:
    """Let Adam and AdamW take the memory of their moments now, with the values of a first step.

    They would take it in that step, after the largest batch has shown that it fits without.
    Others are left alone: SGD's momentum begins as its first gradient.
    """
    if type(optimizer) not in (Adam, AdamW):
        return
    made_by: Any = optimizer
    for group in optimizer.param_groups:
        bare = [p for p in group["params"] if p.requires_grad and not optimizer.state.get(p)]
        if not bare:
            continue
        before = [p.grad for p in bare]
        for parameter in bare:
            parameter.grad = parameter.detach()  # only asked for; no memory of its own
        try:
            made_by._init_group({**group, "params": bare}, [], [], [], [], [], [])
        finally:
            for parameter, gradient in zip(bare, before, strict=True):
                parameter.grad = gradient


def try_update_memory(optimizer: Optimizer) -> None:
    """Take the memory of an update's temporaries, and give it back to PyTorch's allocator.

    Optimizers that work on lists of tensors make a list as large as the weights in the middle of
    an update, when moments have been changed already. What this leaves in the allocator's cache
    suffices for it; where it fails, nothing has been changed yet. Fused ones need none.
    """
    held = [
        torch.empty_like(parameter)
        for group in optimizer.param_groups
        if not group.get("fused")
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    held.clear()


def writes_so_far(optimizer: Optimizer) -> list[int]:
    """Count the writes to the first parameter with a gradient of each group, and to its state.

    An update begins with them; to look at all would take longer than some updates. Frozen ones,
    and those that the loss does not reach, are not written to: ask when the gradients are there.
    """
    tensors: list[Tensor] = []
    for group in optimizer.param_groups:
        first = next((p for p in group["params"] if p.grad is not None), None)
        if first is not None:
            values = optimizer.state.get(first, {}).values()
            tensors += [first, *(value for value in values if isinstance(value, Tensor))]
    return [tensor._version for tensor in tensors]
