"""How much of a network is recomputed in the backward pass, in words. Imports no torch."""

import re

from gpuopt.errors import InputError

__all__ = ["AUTO", "FULL", "NONE", "check_level", "levels", "stages_at"]

NONE, FULL, AUTO = "none", "full", "auto"
_STAGES = re.compile(r"stages=([1-9]\d{0,3})")


def check_level(level: str) -> None:
    """Refuse a word that is no level.

    Args:
        level: `none`, `auto`, `full` or `stages=K` with K from 1.

    Raises:
        InputError: For any other word.
    """
    if level not in (NONE, FULL, AUTO) and not _STAGES.fullmatch(level):
        raise InputError(
            f"model.checkpointing={level} is not one of none, auto, full, and not stages=K "
            "with K from 1"
        )


def stages_at(level: str, available: int) -> int:
    """Return how many of a network's first stages a level recomputes.

    Args:
        level: `none`, `full` or `stages=K`.
        available: Stages of the network.

    Raises:
        InputError: For `auto`, which something has to decide first; when the network has no
            stages, or fewer than K.
    """
    check_level(level)
    if level == AUTO:
        raise InputError(
            "model.checkpointing=auto is settled by `gpuopt train`, which knows the card and the "
            "batch: give none, stages=K or full"
        )
    if level == NONE:
        return 0
    if not available:
        raise InputError(f"model.checkpointing={level}: the network has no stages to recompute")
    if level == FULL:
        return available
    wanted = int(level.partition("=")[2])
    if wanted > available:
        raise InputError(
            f"model.checkpointing={level}: the network has {available} stages; give at most that "
            "many, or full"
        )
    return wanted


def levels(available: int) -> list[str]:
    """List the levels of a network from the least to the most, each only once.

    Args:
        available: Stages of the network; 0 where nothing can be recomputed.
    """
    if not available:
        return [NONE]
    return [NONE, *(f"stages={count}" for count in range(1, available)), FULL]
