"""An optimizer's own memory: taken before the first step, and watched for half-done updates."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

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

    Those that work on lists of tensors make a list as large as the weights in the middle of an
    update, when moments have been changed already. What this leaves in the allocator's cache
    suffices for it; where it fails, nothing has been changed yet. Nothing is taken where it is not
    certain that an update needs it: for fused ones, tensor by tensor, and for unknown ones.
    """
    for parameters in _lists(optimizer):
        held = [torch.empty_like(parameter) for parameter in parameters]
        held.clear()  # before the next list, as an update does


def _lists(optimizer: Optimizer) -> Iterator[list[Tensor]]:
    """Give the parameters that are updated together with a temporary for each."""
    if type(optimizer) not in (Adam, AdamW, SGD):
        return
    for group in optimizer.param_groups:
        parameters = [p for p in group["params"] if p.grad is not None]
        # SGD alone changes weights by their gradients as they are.
        has_list = type(optimizer) is not SGD or group["weight_decay"] or group["nesterov"]
        if not has_list or not _is_by_lists(group, parameters):
            continue
        kinds: dict[Any, list[Tensor]] = {}
        for parameter in parameters:
            kinds.setdefault((parameter.device, parameter.dtype), []).append(parameter)
        yield from kinds.values()


def _is_by_lists(group: dict[str, Any], parameters: list[Tensor]) -> bool:
    """Tell whether PyTorch updates a group by `foreach`, which it chooses itself on CUDA."""
    if group.get("fused") or group.get("differentiable"):
        return False
    if group.get("foreach") is not None:
        return bool(group["foreach"])
    # Adam and AdamW leave it for a rate on the device that no graph captures.
    is_apart = isinstance(group["lr"], Tensor) and not group.get("capturable")
    return not is_apart and all(parameter.is_cuda for parameter in parameters)


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
