"""What a run's settings mean for its memory, and the micro-batch on a card that is not there."""

import math
from collections.abc import Mapping
from typing import Any

from gpuopt.batch_schedule import BatchSchedule
from gpuopt.choice import Choice
from gpuopt.hardware import Gpu, resolve_precision
from gpuopt.memory import MemorySetup, choose_micro_batch, predict_memory

__all__ = ["absent_micro_batch", "memory_setup"]


def memory_setup(
    model: Mapping[str, Any],
    image_size: int | None,
    precision: str,
    *,
    optimizer: Mapping[str, Any] | None = None,
    moving_average: bool = False,
    clips_gradients: bool = True,
) -> MemorySetup:
    """Describe a training to the predictor.

    Args:
        model: The model's settings: `name`, and if they are there `checkpointing`, `drop_rate`
            and `drop_path_rate`.
        image_size: Side in pixels; None takes the model's own.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        optimizer: Its settings with `_target_`; None is AdamW.
        moving_average: Whether the weights are averaged.
        clips_gradients: Whether gradients are clipped; with fp16 the optimizer is not fused then.
    """
    kind = "AdamW" if optimizer is None else str(optimizer["_target_"]).rpartition(".")[2]
    return MemorySetup(
        str(model["name"]),
        image_size,
        precision,
        checkpointing=str(model.get("checkpointing", "none")),
        drop_rate=float(model.get("drop_rate") or 0.0),
        drop_path_rate=model.get("drop_path_rate"),
        optimizer_moments=2 if kind == "AdamW" else 1,
        optimizer_is_fused=not (precision == "fp16" and clips_gradients),
        moving_average=moving_average,
    )


def absent_micro_batch(gpu: Gpu, config: Mapping[str, Any]) -> Choice:
    """Predict what `micro_batch_size=auto` would be on a card that is not there.

    Args:
        gpu: A preset with its memory.
        config: Composed settings of `gpuopt train`.

    Raises:
        InputError: When not one sample fits, or the model is unknown to timm.
    """
    size = config["image_size"] if config["image_size"] != "auto" else gpu.image_size
    setup = memory_setup(
        config["model"],
        size,
        str(resolve_precision(config["precision"]["name"], gpu, is_cuda=True).value),
        optimizer=config["optimizer"],
        moving_average=config["callbacks"]["moving_average"]["enabled"],
        clips_gradients=config["trainer"]["gradient_clip_norm"] is not None,
    )
    sizes = BatchSchedule.of(config["global_batch_size"], config["global_batch_schedule"])
    per_device = math.ceil(sizes.largest / config["trainer"]["devices"])
    return choose_micro_batch(gpu, predict_memory(setup, cache_dir=config["cache_dir"]), per_device)
