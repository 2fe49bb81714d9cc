"""How a model would run on a device: what fits, and how many samples a second, predicted."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, resolve_precision
from gpuopt.measure import Interval
from gpuopt.measure.roofline import (
    Rates,
    cpu_rates,
    gpu_rates,
    kept_forward_flops,
    predict_forward_s,
    predict_sample_interval_s,
)
from gpuopt.memory import MemoryEstimate, MemorySetup, cut_global_batch, predict_memory
from gpuopt.recomputation import NONE
from gpuopt.session.memory import memory_setup

__all__ = ["LEAST_MICRO_BATCH", "PlannedSpeed", "plan_speed"]

# Below so many samples kernels are too short, and the activations are rather recomputed.
LEAST_MICRO_BATCH = 8
_MOST_ON_CPU = 32
_RECOMPUTED = 4 / 3  # the forward pass is a third of a step's work, and done twice


@dataclass(frozen=True)
class PlannedSpeed:
    """The plan for one model on one device.

    Attributes:
        model_name: timm's name.
        image_size: Side in pixels.
        precision: That it computes in.
        largest: Samples that fit at once, as the model is; None on the processors.
        micro_batch_size: To train with; 0 when not one sample fits.
        checkpointing: Level with which these fit.
        train_per_s: Samples a second in training; None where the rates are unknown.
        predict_per_s: The same in prediction.
    """

    model_name: str
    image_size: int
    precision: str
    largest: int | None
    micro_batch_size: int
    checkpointing: str
    train_per_s: Interval | None
    predict_per_s: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "model": self.model_name,
            "image_size": self.image_size,
            "precision": self.precision,
            "largest_micro_batch": self.largest,
            "micro_batch_size": self.micro_batch_size,
            "checkpointing": self.checkpointing,
            "train_samples_per_second": _plain(self.train_per_s),
            "predict_samples_per_second": _plain(self.predict_per_s),
            "evidence": "predicted",
        }


def plan_speed(
    gpu: Gpu,
    model: Mapping[str, Any],
    image_size: int | None,
    *,
    precision: str = "auto",
    optimizer: Mapping[str, Any] | None = None,
    moving_average: bool = False,
    global_batch_size: int = 256,
    cache_dir: str | None = None,
) -> PlannedSpeed:
    """Predict how a model runs.

    Args:
        gpu: The card, or the preset `cpu`.
        model: The model's settings.
        image_size: Side in pixels; None takes the model's own.
        precision: `auto` or a name.
        optimizer: Its settings; None is AdamW.
        moving_average: Whether the weights are averaged.
        global_batch_size: Samples per optimizer step, of which the micro-batch is a part.
        cache_dir: Folder of all caches; None means the user's cache folder.

    Raises:
        InputError: When timm does not know the model, it does not take the size, or the device
            cannot compute in the precision.
    """
    arithmetic = str(resolve_precision(precision, gpu, is_cuda=not gpu.is_cpu).value)
    asked = memory_setup(
        model, image_size, arithmetic, optimizer=optimizer, moving_average=moving_average
    )
    plain = _memory(replace(asked, checkpointing=NONE), cache_dir)
    largest, micro, level = None, min(_MOST_ON_CPU, global_batch_size), NONE
    if not gpu.is_cpu:
        largest = plain.largest_batch(gpu.budget_bytes())
        fitting, level = _with_recomputing(asked, gpu, largest, cache_dir)
        micro = 0
        if fitting:
            micro = cut_global_batch(fitting, global_batch_size).micro_batch_size
    size = plain.image_size
    train_s = predict_s = None
    rates = _rates(gpu, arithmetic)
    if rates is not None:
        flops = kept_forward_flops(asked.model_name, size, cache_dir)
        slower = 1.0 if level == NONE else _RECOMPUTED
        train_s = _scaled(predict_sample_interval_s(flops, plain.bytes_per_sample, rates), slower)
        predict_s = predict_forward_s(flops, plain.bytes_per_sample, rates)
    return PlannedSpeed(
        asked.model_name,
        size,
        arithmetic,
        largest,
        micro,
        level,
        None if train_s is None else _per_second(train_s),
        None if predict_s is None else _per_second(predict_s),
    )


def _with_recomputing(
    asked: MemorySetup, gpu: Gpu, plain: int, cache_dir: str | None
) -> tuple[int, str]:
    """Return what fits as it was asked for, or with all stages recomputed if too little does."""
    if asked.checkpointing not in (NONE, "auto"):
        fitting = _memory(asked, cache_dir).largest_batch(gpu.budget_bytes())
        return fitting, asked.checkpointing
    if plain >= LEAST_MICRO_BATCH:
        return plain, NONE
    try:
        recomputed = _memory(replace(asked, checkpointing="full"), cache_dir)
    except InputError:  # a model without stages
        return plain, NONE
    fitting = recomputed.largest_batch(gpu.budget_bytes())
    return (fitting, "full") if fitting > plain else (plain, NONE)


@functools.cache  # the cards of a catalogue share it
def _memory(setup: MemorySetup, cache_dir: str | None) -> MemoryEstimate:
    return predict_memory(setup, cache_dir=cache_dir)


def _rates(gpu: Gpu, precision: str) -> Rates | None:
    return cpu_rates() if gpu.is_cpu else gpu_rates(gpu, precision)


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(factor * interval.value, factor * interval.low, factor * interval.high)


def _per_second(sample_s: Interval) -> Interval:
    return Interval(1 / sample_s.value, 1 / sample_s.high, 1 / sample_s.low)


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.as_dict()
