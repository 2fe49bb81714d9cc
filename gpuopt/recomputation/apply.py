"""Recompute the blocks of a network's first stages in the backward pass, instead of keeping them.

What differs from `set_grad_checkpointing` of timm: it may be a part of the network, and the forward
pass that runs a second time does not write to buffers a second time (pytorch#96136: BatchNorm would
move its running statistics twice in every step). The generators of random numbers are put back by
PyTorch, so dropout and stochastic depth repeat themselves, and gradients are those of a network
that keeps everything. Random numbers of Python and NumPy are not put back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gpuopt.errors import InputError
from gpuopt.recomputation.buffers import BufferKeeper
from gpuopt.recomputation.level import NONE, stages_at
from gpuopt.recomputation.stages import stages_of

__all__ = ["apply_checkpointing", "count_stages"]


def apply_checkpointing(
    network: nn.Module, level: str, stages: Sequence[Sequence[nn.Module]] | None = None
) -> int:
    """Set how much of a network is recomputed; may be called again with another level.

    The first stages come first: in networks that halve their maps from stage to stage a block there
    keeps the most bytes for the operations that it takes to compute it again.

    Args:
        network: Any network, changed in place. Names of parameters and buffers stay.
        level: `none`, `stages=K` for the first K stages, or `full` for all of them.
        stages: The blocks of each stage in the order in which they run, for networks in which
            `stages_of` does not find them.

    Returns:
        How many stages are recomputed.

    Raises:
        InputError: When the level is none of these, or the network has no, or too few, stages.
    """
    _remove(network)
    if level == NONE:
        return 0
    found = stages_of(network) if stages is None else stages
    count = stages_at(level, len(found))
    for stage in found[:count]:
        for block in stage:
            block.forward = _Recomputed(block)
    return count


def count_stages(network: nn.Module) -> int:
    """Return how many stages of a network can be recomputed; 0 when none can."""
    try:
        return len(stages_of(network))
    except InputError:
        return 0


class _Recomputed:
    """Stands in for the `forward` of a block.

    An object with a reference to the block, not a function around it: a copy of the network (as
    averaging of weights makes) then calls its own block and not the first one.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.own: Callable[..., Any] | None = vars(block).get("forward")
        self._buffers = BufferKeeper(block)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._run(*args, **kwargs)
        if torch.compiler.is_compiling():  # which writes to buffers once by itself
            return checkpoint(self._run, *args, use_reentrant=False, **kwargs)
        args = tuple(_own_list(value) for value in args)
        guard = self._buffers.guard()
        outputs = checkpoint(
            self._run,
            *args,
            use_reentrant=False,
            context_fn=lambda: (_nothing, guard),
            **kwargs,
        )
        self._buffers.learn(guard)
        return outputs

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.block).forward(self.block, *args, **kwargs)


def _remove(network: nn.Module) -> None:
    for part in network.modules():
        present = vars(part).get("forward")
        if not isinstance(present, _Recomputed):
            continue
        if present.own is None:
            del part.forward
        else:
            part.forward = present.own


def _own_list(value: Any) -> Any:
    """Copy a list, to which the network may add before it is needed again (DenseNet does)."""
    return list(value) if type(value) is list else value


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


_nothing = _Nothing()
