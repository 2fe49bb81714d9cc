"""Decide how a configuration runs on the device that is really there, and say why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpuopt.batch_schedule import BatchSchedule, learning_rate_factor
from gpuopt.choice import Choice
from gpuopt.hardware import (
    Gpu,
    available_cpus,
    choose_image_size,
    recommended_workers,
    resolve_precision,
    select_gpu,
)
from gpuopt.hardware.shared_memory import workers_that_fit
from gpuopt.memory import MemoryEstimate, choose_micro_batch
from gpuopt.recomputation import NONE
from gpuopt.session.checkpointing import choose_checkpointing, wanted_samples
from gpuopt.session.device import cuda_properties
from gpuopt.session.memory import TrainingMemory
from gpuopt.session.offloading import check_offload, offload_choice

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Everything about a run that depends on the machine.

    Attributes:
        accelerator: `cuda` or `cpu`.
        gpu: The card that the run is planned for.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        image_size: Side in pixels.
        global_batch_size: Samples per optimizer step in the first epoch.
        micro_batch_size: Samples per device per forward.
        devices: Processes that train together.
        choices: Every automatic choice with its evidence.
        num_workers: Loader processes of each device; settled once it is known whether the data
            is decoded, by `with_workers`.
        checkpointing: How much of the model is recomputed in the backward pass.
        memory: Predicted, on a CUDA device.
        global_batch_changes: Other global batches by the epoch, from 0, from which they hold.
        learning_rate: Of the model at the first epoch's global batch; None: as configured.
        learning_rate_rule: Which relates it to other global batches.
    """

    accelerator: str
    gpu: Gpu
    precision: str
    image_size: int
    global_batch_size: int
    micro_batch_size: int
    devices: int
    choices: tuple[Choice, ...]
    num_workers: int = 0
    checkpointing: str = "none"
    memory: MemoryEstimate | None = None
    global_batch_changes: Mapping[int, int] = field(default_factory=dict)
    learning_rate: float | None = None
    learning_rate_rule: str = "none"

    @property
    def global_batches(self) -> BatchSchedule:
        """Samples per optimizer step by epoch."""
        return BatchSchedule.of(self.global_batch_size, self.global_batch_changes)

    @property
    def accumulate_grad_batches(self) -> int:
        """Micro-batches per optimizer step and device, in the first epoch."""
        return math.ceil(math.ceil(self.global_batch_size / self.devices) / self.micro_batch_size)

    def with_choice(self, choice: Choice) -> "Plan":
        """Add what was chosen once the model was there."""
        return replace(self, choices=(*self.choices, choice))

    def with_micro_batch(self, choice: Choice) -> "Plan":
        """Take a micro-batch that was measured in place of the one that was predicted."""
        kept = [choice if old.key == choice.key else old for old in self.choices]
        return replace(self, micro_batch_size=int(choice.value), choices=tuple(kept))

    def with_workers(
        self, requested: int | str, *, decoded: bool, ranks: int = 1, prefetch_factor: int = 2
    ) -> "Plan":
        """Settle the loader processes.

        Args:
            requested: `auto` or a number.
            decoded: Whether samples come decoded from memory.
            ranks: Processes on this machine that train together and share its CPUs.
            prefetch_factor: Batches that each loader process holds ready.
        """
        asked: Any = requested if requested == "auto" else int(requested)
        share = max(1, available_cpus() // ranks)
        workers = recommended_workers(asked, self.gpu, cached=decoded, cpus=share)
        if asked == "auto":
            workers = self._within_shared_memory(workers, ranks, prefetch_factor)
        return replace(self, num_workers=int(workers.value), choices=(*self.choices, workers))

    def _within_shared_memory(self, workers: Choice, ranks: int, prefetch_factor: int) -> Choice:
        # Mixed images travel beside their partners.
        batch_bytes = 2 * self.micro_batch_size * 3 * self.image_size**2
        fit = workers_that_fit(batch_bytes * ranks, prefetch_factor=prefetch_factor)
        if fit is None or fit >= int(workers.value):
            return workers
        reason = f"shared memory (/dev/shm) holds the batches of {fit}, not of {workers.value}"
        return Choice(workers.key, fit, "measured", reason)


def make_plan(
    *,
    preset: Gpu,
    catalogue: Mapping[str, Gpu],
    model: Mapping[str, Any],
    precision: str,
    image_size: int | str,
    micro_batch_size: int | str,
    global_batch_size: int,
    devices: int,
    device_index: int = 0,
    local_devices: int | None = None,
    optimizer: Mapping[str, Any] | None = None,
    moving_average: bool = False,
    clips_gradients: bool = True,
    cache_dir: str | None = None,
    global_batch_changes: Mapping[int, int] | None = None,
    learning_rate_rule: str = "none",
    learning_rate_reference_batch: int | None = None,
) -> Plan:
    """Resolve what was left to gpuopt.

    Args:
        preset: The `gpu=` option.
        catalogue: All presets, to recognise the card.
        model: The model's settings, see `memory_setup`.
        precision: `auto` or a name.
        image_size: `auto` or pixels.
        micro_batch_size: `auto` or samples.
        global_batch_size: Samples per optimizer step in the first epoch.
        devices: Processes that train together, each on a device of its own.
        device_index: The device of this process on its machine.
        local_devices: Those of them on this machine; None means all.
        optimizer: The optimizer's settings; None is AdamW.
        moving_average: Whether the weights are averaged.
        clips_gradients: Whether gradients are clipped.
        cache_dir: Folder of all caches; None means the user's cache folder.
        global_batch_changes: Other global batches by the epoch from which they hold.
        learning_rate_rule: What the learning rate becomes with another global batch.
        learning_rate_reference_batch: Samples per step that it was chosen for; None: those of
            the first epoch.

    Raises:
        InputError: When the device cannot run this, or not one sample fits.
    """
    properties = cuda_properties(preset, local_devices or devices, device_index)
    gpu, gpu_choice = select_gpu(preset, properties, catalogue)
    is_cuda = properties is not None
    arithmetic = resolve_precision(precision, gpu, is_cuda)
    size = choose_image_size(image_size, gpu)
    offloads = check_offload(
        optimizer, is_cuda=is_cuda, devices=devices, precision=str(arithmetic.value)
    )
    memory = TrainingMemory(
        model,
        int(size.value),
        str(arithmetic.value),
        optimizer=optimizer,
        moving_average=moving_average,
        clips_gradients=clips_gradients,
        cache_dir=cache_dir,
    )
    schedule = BatchSchedule.of(global_batch_size, global_batch_changes)
    per_device = math.ceil(schedule.largest / devices)
    level = choose_checkpointing(
        str(model.get("checkpointing", NONE)),
        memory.at if is_cuda else None,
        gpu.budget_bytes() if is_cuda else 0,
        wanted_samples(micro_batch_size, per_device),
    )
    estimate = memory.at(str(level.value)) if is_cuda else None
    micro = _choose_micro(micro_batch_size, gpu, estimate, per_device)
    choices = [gpu_choice, arithmetic, size, *([] if level.evidence == "given" else [level])]
    if offloads:
        choices.append(offload_choice(memory.at, str(level.value), gpu.budget_bytes()))
    choices.append(micro)
    learning_rate = None
    if learning_rate_rule != "none":
        reference = learning_rate_reference_batch or global_batch_size
        learning_rate, rate_choice = _choose_learning_rate(
            model, learning_rate_rule, global_batch_size, reference
        )
        choices.append(rate_choice)
    return Plan(
        accelerator="cuda" if is_cuda else "cpu",
        gpu=gpu,
        precision=str(arithmetic.value),
        image_size=int(size.value),
        global_batch_size=global_batch_size,
        micro_batch_size=int(micro.value),
        devices=devices,
        choices=tuple(choices),
        checkpointing=str(level.value),
        memory=estimate,
        global_batch_changes=schedule.changes,
        learning_rate=learning_rate,
        learning_rate_rule=learning_rate_rule,
    )


def _choose_learning_rate(
    model: Mapping[str, Any], rule: str, global_batch_size: int, reference: int
) -> tuple[float, Choice]:
    base = float(model["learning_rate"])
    factor = learning_rate_factor(rule, global_batch_size, reference)
    reason = (
        f"model.learning_rate {base:.4g} x {factor:.4g} = {base * factor:.4g}, from {reference} "
        f"to {global_batch_size} samples per step"
    )
    return base * factor, Choice("learning_rate_rule", rule, "predicted", reason)


def _choose_micro(
    requested: int | str, gpu: Gpu, estimate: MemoryEstimate | None, per_device: int
) -> Choice:
    if requested == "auto":
        return choose_micro_batch(gpu, estimate, per_device)
    value = min(int(requested), per_device)
    reason = "asked for"
    if value < int(requested):
        reason = f"{requested} asked for, the global batch has {per_device} samples per device"
    elif estimate is not None and value > estimate.largest_batch(gpu.budget_bytes()):
        fit = estimate.largest_batch(gpu.budget_bytes())
        reason = f"asked for; predicted to need more memory than there is (about {fit} fit)"
    return Choice("micro_batch_size", value, "given", reason)
