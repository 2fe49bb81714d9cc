"""What a run's settings mean for its memory, and what they give on a card that is not there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuopt.batch_schedule import BatchSchedule
from gpuopt.choice import Choice
from gpuopt.hardware import Gpu, choose_image_size, resolve_precision
from gpuopt.memory import MemoryEstimate, MemorySetup, choose_micro_batch, predict_memory
from gpuopt.recomputation import NONE
from gpuopt.session.checkpointing import choose_checkpointing

__all__ = ["TrainingMemory", "absent_choices", "absent_micro_batch", "memory_setup"]


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
        model: The model's settings: `name`, and if they are there `checkpointing`,
            `drop_rate`, `drop_path_rate` and `batch_norm`.
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
        frozen_statistics=model.get("batch_norm") == "frozen",
        optimizer_moments=2 if kind == "AdamW" else 1,
        optimizer_is_fused=not (precision == "fp16" and clips_gradients),
        moving_average=moving_average,
        optimizer_is_offloaded=bool(optimizer and optimizer.get("offload")),
    )


@dataclass(frozen=True)
class TrainingMemory:
    """Predicts the memory of a training, by how much of the model is recomputed.

    Attributes:
        model: See `memory_setup`, as the next five.
        image_size: In pixels.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        optimizer: Its settings.
        moving_average: Whether the weights are averaged.
        clips_gradients: Whether gradients are clipped.
        cache_dir: Folder of all caches; None means the user's cache folder.
    """

    model: Mapping[str, Any]
    image_size: int
    precision: str
    optimizer: Mapping[str, Any] | None = None
    moving_average: bool = False
    clips_gradients: bool = True
    cache_dir: str | None = None

    def at(self, level: str, *, offload: bool | None = None) -> MemoryEstimate:
        """Predict it at a level of checkpointing.

        Args:
            level: `none`, `stages=K` or `full`.
            offload: Whether the optimizer's state leaves the card; None: as the settings say.
        """
        setup = memory_setup(
            {**self.model, "checkpointing": level},
            self.image_size,
            self.precision,
            optimizer=self.optimizer,
            moving_average=self.moving_average,
            clips_gradients=self.clips_gradients,
        )
        if offload is not None:
            setup = replace(setup, optimizer_is_offloaded=offload)
        return predict_memory(setup, cache_dir=self.cache_dir)


def absent_choices(gpu: Gpu, config: Mapping[str, Any]) -> list[Choice]:
    """Predict what would be chosen for a training on a card that is not there.

    Args:
        gpu: A preset with its memory.
        config: Composed settings of `gpuopt train`.

    Returns:
        What `model.checkpointing=auto` would be, if asked for, then `micro_batch_size=auto`.

    Raises:
        InputError: When not one sample fits, or the model is unknown to timm.
    """
    memory = TrainingMemory(
        config["model"],
        int(choose_image_size(config["image_size"], gpu).value),
        str(resolve_precision(config["precision"]["name"], gpu, is_cuda=True).value),
        optimizer=config["optimizer"],
        moving_average=config["callbacks"]["moving_average"]["enabled"],
        clips_gradients=config["trainer"]["gradient_clip_norm"] is not None,
        cache_dir=config["cache_dir"],
    )
    sizes = BatchSchedule.of(config["global_batch_size"], config["global_batch_schedule"])
    per_device = math.ceil(sizes.largest / config["trainer"]["devices"])
    requested = str(config["model"].get("checkpointing", NONE))
    level = choose_checkpointing(requested, memory.at, gpu.budget_bytes(), per_device)
    micro = choose_micro_batch(gpu, memory.at(str(level.value)), per_device)
    return [micro] if level.evidence == "given" else [level, micro]


def absent_micro_batch(gpu: Gpu, config: Mapping[str, Any]) -> Choice:
    """Predict what `micro_batch_size=auto` would be there; arguments as `absent_choices`."""
    return absent_choices(gpu, config)[-1]
