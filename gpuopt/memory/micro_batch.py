"""Choosing how many samples a device takes at once."""

import math

from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.memory.estimate import MemoryEstimate

__all__ = ["choose_micro_batch"]

_LARGEST_ON_CPU = 32


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
    if estimate is None:
        raise InputError(f"micro_batch_size=auto: gpu={gpu.name} needs a memory estimate")
    budget_bytes = gpu.budget_bytes()
    largest = estimate.largest_batch(budget_bytes)
    if largest < 1:
        raise InputError(_too_small(gpu, estimate, budget_bytes))
    chunks = math.ceil(global_batch_per_device / largest)
    value = math.ceil(global_batch_per_device / chunks)
    reason = (
        f"{largest} fit: {_gib(estimate.fixed.total_bytes)} + {largest} x "
        f"{estimate.varying_bytes(largest) / largest / 2**20:.0f} MiB of {_gib(budget_bytes)}, "
        f"{100 * gpu.headroom('predicted'):.3g} % kept free; "
        f"{global_batch_per_device} in {chunks} of up to {value}"
    )
    return Choice("micro_batch_size", value, "predicted", reason)


def _too_small(gpu: Gpu, estimate: MemoryEstimate, budget_bytes: int) -> str:
    context = estimate.fixed.context
    return (
        f"micro_batch_size=auto: not one sample fits gpu={gpu.name}: context "
        f"{_gib(context)} + weights and optimizer {_gib(estimate.fixed.total_bytes - context)} + "
        f"one sample {_gib(estimate.varying_bytes(1))} = {_gib(estimate.peak_bytes(1))}, budget "
        f"{_gib(budget_bytes)}; take a smaller model or image_size, or checkpointing"
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
