"""What an engine computes in and for how many images, where that is left to gpuopt."""

import torch

from gpuopt.choice import Choice
from gpuopt.errors import InputError

__all__ = ["engine_batches", "engine_precision"]


def engine_precision(asked: str, device: torch.device) -> Choice:
    """Choose what an engine computes in."""
    if asked == "tf32":
        return Choice("precision", "fp32", "given", "tf32 is fp32 for an engine")
    if asked != "auto":
        return Choice("precision", asked, "given", "asked for")
    if device.type == "cuda":
        reason = "eight times as fine as bf16; an overflow is found before it is used"
        return Choice("precision", "fp16", "table", reason)
    return Choice("precision", "fp32", "table", "half precision is slower on a CPU")


def engine_batches(
    optimal: int | str, maximum: int | str, batch_size: int
) -> tuple[Choice, Choice]:
    """Settle what an engine is tuned for and the most that it takes.

    Args:
        optimal: `auto` or images per call.
        maximum: `auto` or images per call.
        batch_size: What a prediction would take.

    Raises:
        InputError: When the optimal batch is above the maximum.
    """
    if optimal == "auto":
        size = batch_size if maximum == "auto" else min(batch_size, int(maximum))
        best = Choice("optimal_batch_size", size, "table", "as predict would take")
    else:
        best = Choice("optimal_batch_size", int(optimal), "given", "asked for")
    if maximum == "auto":
        return best, Choice("max_batch_size", best.value, "table", "the optimal one")
    if int(best.value) > int(maximum):
        raise InputError(f"optimal_batch_size={best.value} is above max_batch_size={maximum}")
    return best, Choice("max_batch_size", int(maximum), "given", "asked for")
