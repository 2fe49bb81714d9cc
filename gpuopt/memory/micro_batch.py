"""Choosing how many samples a device takes at once: the one rule, whatever the evidence.

How many fit is predicted or measured elsewhere; what is made of that number is said here.
"""

import math
from dataclasses import dataclass

from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.memory.estimate import MemoryEstimate

__all__ = [
    "LARGEST_PREDICTION",
    "BatchChoice",
    "choose_micro_batch",
    "choose_prediction_batch",
    "cut_global_batch",
]

# A prediction's batch grows no further by itself: throughput does not grow any more.
LARGEST_PREDICTION = 256
_LARGEST_ON_CPU = 32


@dataclass(frozen=True)
class BatchChoice:
    """How to take the samples of one optimizer step.

    Attributes:
        micro_batch_size: Samples per device per forward.
        accumulate_grad_batches: Micro-batches per optimizer step and device.
    """

    micro_batch_size: int
    accumulate_grad_batches: int


def cut_global_batch(largest: int, per_device: int, *, is_ragged: bool = True) -> BatchChoice:
    """Cut a device's share of a global batch into the micro-batches that take the least time.

    Those are the fewest: each costs a part of its own, while the samples cost the same however
    they are cut. Of the sizes that make the fewest, the least is taken, so that all are alike.

    Args:
        largest: Samples that fit, at least 1.
        per_device: Samples of one optimizer step on this device, at least 1.
        is_ragged: Whether the last micro-batch of a step may be smaller than the others, as in
            gpuopt's own training; else only divisors keep the global batch exact.
    """
    if is_ragged:
        chunks = math.ceil(per_device / largest)
        return BatchChoice(math.ceil(per_device / chunks), chunks)
    size = max(size for size in range(1, min(largest, per_device) + 1) if per_device % size == 0)
    return BatchChoice(size, per_device // size)


def choose_micro_batch(
    gpu: Gpu, estimate: MemoryEstimate | None, global_batch_per_device: int
) -> Choice:
    """Pick the largest micro-batch that fits, in as few and as equal chunks as possible.

    Args:
        gpu: The card to plan for, or the preset `cpu`.
        estimate: From `predict_memory`; a CPU needs none.
        global_batch_per_device: Samples of one optimizer step on this device.

    Returns:
        A choice for the key `micro_batch_size`.

    Raises:
        InputError: Not even one sample fits, the card's memory is unknown, or the global batch
            is not positive.
    """
    if global_batch_per_device < 1:
        raise InputError(
            f"global_batch_size: {global_batch_per_device} samples per device; give at least 1"
        )
    if gpu.is_cpu:
        value = min(_LARGEST_ON_CPU, global_batch_per_device)
        return Choice("micro_batch_size", value, "table", f"at most {_LARGEST_ON_CPU} on a CPU")
    largest = _largest(gpu, estimate, "micro_batch_size")
    assert estimate is not None  # else nothing fits
    best = cut_global_batch(largest, global_batch_per_device)
    reason = (
        f"{_fitting(gpu, estimate, largest)}; {global_batch_per_device} in "
        f"{best.accumulate_grad_batches} of up to {best.micro_batch_size}"
    )
    return Choice("micro_batch_size", best.micro_batch_size, "predicted", reason)


def choose_prediction_batch(gpu: Gpu, estimate: MemoryEstimate | None) -> Choice:
    """Pick the batch of a prediction: what fits, as far as throughput grows.

    Args:
        gpu: The card to plan for, or the preset `cpu`.
        estimate: From `predict_memory`, of inference; a CPU needs none.

    Returns:
        A choice for the key `batch_size`.

    Raises:
        InputError: As `choose_micro_batch`.
    """
    key = "batch_size"
    if gpu.is_cpu:
        return Choice(key, _LARGEST_ON_CPU, "table", f"at most {_LARGEST_ON_CPU} on a CPU")
    largest = _largest(gpu, estimate, key)
    assert estimate is not None  # else nothing fits
    value = min(largest, LARGEST_PREDICTION)
    return Choice(key, value, "predicted", _fitting(gpu, estimate, largest))


def _largest(gpu: Gpu, estimate: MemoryEstimate | None, key: str) -> int:
    """Return how many samples are predicted to fit; refuses when none does."""
    if estimate is None:
        raise InputError(f"{key}=auto: gpu={gpu.name} needs a memory estimate")
    budget_bytes = gpu.budget_bytes()
    largest = estimate.largest_batch(budget_bytes)
    if largest < 1:
        raise InputError(_too_small(gpu, estimate, budget_bytes, key))
    return largest


def _fitting(gpu: Gpu, estimate: MemoryEstimate, largest: int) -> str:
    return (
        f"{largest} fit: {_gib(estimate.fixed.total_bytes)} + {largest} x "
        f"{estimate.varying_bytes(largest) / largest / 2**20:.0f} MiB of "
        f"{_gib(gpu.budget_bytes())}, {100 * gpu.headroom('predicted'):.3g} % kept free"
    )


def _too_small(gpu: Gpu, estimate: MemoryEstimate, budget_bytes: int, key: str) -> str:
    context = estimate.fixed.context
    return (
        f"{key}=auto: not one sample fits gpu={gpu.name}: context "
        f"{_gib(context)} + weights and optimizer {_gib(estimate.fixed.total_bytes - context)} + "
        f"one sample {_gib(estimate.varying_bytes(1))} = {_gib(estimate.peak_bytes(1))}, budget "
        f"{_gib(budget_bytes)}; take a smaller model or image_size, or checkpointing"
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
