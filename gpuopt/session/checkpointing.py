"""Settle `model.checkpointing=auto`: the least that reaches the wanted micro-batch."""

import math
from collections.abc import Callable

from gpuopt.choice import Choice
from gpuopt.memory import MemoryEstimate
from gpuopt.recomputation import AUTO, NONE, levels

__all__ = ["choose_checkpointing", "wanted_samples"]

_KEY = "model.checkpointing"


def choose_checkpointing(
    requested: str,
    predict: Callable[[str], MemoryEstimate] | None,
    budget_bytes: int,
    wanted: int,
) -> Choice:
    """Pick how much of the model is recomputed in the backward pass.

    Args:
        requested: A level, or `auto`.
        predict: Gives the memory at a level; None on a CPU, where no card limits the batch.
        budget_bytes: What the card has for it.
        wanted: Samples of the micro-batch that is to be reached.

    Returns:
        For `auto` the least level at which the wanted samples fit. When they fit at none, the
        least one that needs the fewest micro-batches for them.
    """
    if requested != AUTO:
        return Choice(_KEY, requested, "given", "by mode, experiment or command line")
    if predict is None:
        return Choice(_KEY, NONE, "table", "no card limits the batch on a CPU")
    largest: dict[str, int] = {}
    for level in levels(predict(NONE).stages):
        largest[level] = predict(level).largest_batch(budget_bytes)
        if largest[level] >= wanted:
            return Choice(_KEY, level, "predicted", _reason(largest, level, wanted))
    fewest = {
        level: math.ceil(wanted / fit) if fit else wanted + 1 for level, fit in largest.items()
    }
    best = min(largest, key=lambda level: fewest[level])  # the first, and least, of several
    if largest.keys() == {NONE}:
        reason = f"the model has no stages to recompute; {largest[NONE]} of {wanted} samples fit"
    else:
        reason = (
            f"{wanted} samples fit at no level; {largest[best]} do with it, {largest[NONE]} without"
        )
    return Choice(_KEY, best, "predicted", reason)


def wanted_samples(micro_batch_size: int | str, per_device: int) -> int:
    """Return the micro-batch that is to be reached: the one given, or the whole global batch.

    Args:
        micro_batch_size: `auto` or samples.
        per_device: Samples of one optimizer step on this device.
    """
    return per_device if micro_batch_size == "auto" else min(int(micro_batch_size), per_device)


def _reason(largest: dict[str, int], level: str, wanted: int) -> str:
    if level == NONE:
        return f"{largest[NONE]} samples fit, {wanted} are wanted"
    before = list(largest)[-2]
    return (
        f"the least with which {wanted} samples fit: {largest[level]} do, "
        f"{largest[before]} with {before}"
    )
