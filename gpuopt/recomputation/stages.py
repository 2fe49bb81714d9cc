"""Find the stages of a network, and in them the blocks that are recomputed one at a time."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from gpuopt.errors import InputError

__all__ = ["stages_of"]

# Where networks keep their stages by custom, when no `group_matcher` says so.
_CUSTOMARY = ("stages", "blocks", "layers", "levels")
_LISTS = (nn.ModuleList, nn.Sequential)


def stages_of(network: nn.Module) -> list[list[nn.Module]]:
    """Return the blocks of each stage, in the order in which they run.

    A timm model tells by its `group_matcher`, which names every block with the number of its stage
    before its own; where there is one number, as in a ViT, each block is a stage. Of other
    networks the children of `stages`, `blocks`, `layers` or `levels` are the stages.

    Args:
        network: Any; a LightningModule has its network inside, which is what to give.

    Returns:
        An empty list when there are no stages.

    Raises:
        InputError: When timm says that the model cannot be recomputed.
    """
    _ask_timm(network)
    found = _matched(network) or _customary(network)
    return [blocks for blocks in (_outermost(network, stage) for stage in found) if blocks]


def _ask_timm(network: Any) -> None:
    """Let a timm model that has no checkpointing say so, and switch off its own."""
    if not hasattr(network, "set_grad_checkpointing"):
        return
    try:
        network.set_grad_checkpointing(True)
    except AssertionError as error:  # so all of timm's models refuse
        raise InputError(
            f"{type(network).__name__} has no activation checkpointing in timm: "
            "set model.checkpointing=none"
        ) from error
    network.set_grad_checkpointing(False)


def _matched(network: Any) -> list[list[nn.Module]]:
    if not hasattr(network, "group_matcher"):
        return []
    try:
        groups = network.group_matcher(coarse=False)["blocks"]
    except (AssertionError, KeyError, TypeError):  # some answer with a function of names
        return []
    pairs = [(groups, None)] if isinstance(groups, str) else groups
    # A pattern with a fixed place beside it is that of a layer between stages.
    patterns = [re.compile(pattern) for pattern, place in pairs if place is None]
    stages: dict[tuple[Any, ...], list[nn.Module]] = {}
    for name, module in network.named_modules():
        numbers = _numbers(name, patterns)
        if numbers and _has_parts(module):
            # Some patterns stop at the stage, whose blocks lie inside.
            stages.setdefault(numbers[:-1] or numbers, []).extend(_blocks(module))
    return list(stages.values())


def _numbers(name: str, patterns: Iterable[re.Pattern[str]]) -> tuple[str, ...]:
    for pattern in patterns:
        if match := pattern.fullmatch(name):
            return tuple(group for group in match.groups() if group is not None)
    return ()


def _customary(network: nn.Module) -> list[list[nn.Module]]:
    for name in _CUSTOMARY:
        stages = getattr(network, name, None)
        if isinstance(stages, _LISTS) and len(stages):
            return [_blocks(stage) for stage in stages]
    return []


def _blocks(stage: nn.Module) -> list[nn.Module]:
    inner = stage if isinstance(stage, _LISTS) else getattr(stage, "blocks", None)
    blocks = [block for block in inner if _has_parts(block)] if isinstance(inner, _LISTS) else []
    return blocks or ([stage] if _has_parts(stage) else [])


def _has_parts(module: nn.Module) -> bool:
    """Tell whether a module is more than one layer, whose input is all that it keeps."""
    return not isinstance(module, nn.ModuleList) and any(True for _ in module.children())


def _outermost(network: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Leave out blocks within blocks: to recompute twice would save nothing."""
    inner = {id(part) for block in blocks for part in block.modules() if part is not block}
    return [block for block in blocks if id(block) not in inner]
