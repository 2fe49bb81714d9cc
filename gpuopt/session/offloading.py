"""Whether an optimizer's state can leave the card, and whether that is the better choice."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.memory import MemoryEstimate
from gpuopt.recomputation import FULL

__all__ = ["check_offload", "offload_choice"]


def check_offload(
    optimizer: Mapping[str, Any] | None, *, is_cuda: bool, devices: int, precision: str
) -> bool:
    """Tell whether the optimizer's state is to lie in host memory.

    Args:
        optimizer: Its settings; None is AdamW.
        is_cuda: Whether the run uses CUDA.
        devices: Processes that train together.
        precision: Of the run.

    Raises:
        InputError: When that cannot be done here, with the reason.
    """
    if not (optimizer or {}).get("offload"):
        return False
    reason = None
    if not is_cuda:
        reason = "without a GPU the optimizer's state lies in host memory anyway; leave it out"
    elif devices > 1:
        reason = f"torchao does it on one device, not on {devices}; give model.checkpointing=auto"
    elif precision == "fp16":
        reason = "the gradient scaler of fp16 does not know it; give precision=fp32 or bf16"
    elif importlib.util.find_spec("torchao") is None:
        reason = "it needs the package torchao: pip install 'gpuopt[offload]'"
    if reason is not None:
        raise InputError(f"optimizer.offload=true: {reason}")
    return True


def offload_choice(predict: Callable[..., MemoryEstimate], level: str, budget_bytes: int) -> Choice:
    """Say what offloading gains on this card, and when checkpointing gains more.

    Args:
        predict: Gives the memory at a level of checkpointing, and with `offload` or without.
        level: The level of the run.
        budget_bytes: Of the card.
    """
    with_it, without = predict(level, offload=True), predict(level, offload=False)
    moved_bytes = without.fixed.optimizer_state - with_it.fixed.optimizer_state
    fit, before = (memory.largest_batch(budget_bytes) for memory in (with_it, without))
    reason = (
        f"keeps {moved_bytes / 2**30:.2f} GiB off the card, for a step on the CPU: "
        f"{fit} samples fit, {before} without"
    )
    if level != FULL and without.stages:
        instead = predict(FULL, offload=False).largest_batch(budget_bytes)
        verdict = "the better choice" if instead > fit else "no better"
        reason += f"; model.checkpointing=full instead would fit {instead}, {verdict}"
    return Choice("optimizer.offload", True, "predicted", reason)
