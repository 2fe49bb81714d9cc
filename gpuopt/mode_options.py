"""The options of `mode=` as `gpuopt check` weighs them, composed as training composes them."""

import functools
from collections.abc import Callable, Sequence

from hydra import compose
from omegaconf import OmegaConf

from gpuopt.checks import TrainingMode
from gpuopt.hardware import AbsentGpu

__all__ = ["MODES", "shipped_modes", "training_words"]

# Largest model first; `fast_optimized` trains the one of `basic` at fewer pixels.
MODES = ("highperf", "basic", "fast_optimized", "lowend_highperf", "quickstart")
# Groups and keys that mean the same to `gpuopt check` and to `gpuopt train`.
_SHARED = ("model", "optimizer", "precision", "image_size", "gpu", "cache_dir")


def shipped_modes() -> dict[str, Callable[[], TrainingMode]]:
    """Return what composes each mode that gpuopt brings, largest model first."""
    return {name: functools.partial(_mode, name) for name in MODES}


def training_words(typed: Sequence[str], gpu: AbsentGpu) -> list[str]:
    """Choose of what was typed what `gpuopt train` takes as well.

    Args:
        typed: Overrides of `gpuopt check`.
        gpu: The card; one that is known by its memory becomes a limit.
    """
    words = [word for word in typed if _group(word) in _SHARED and "memory_gib" not in word]
    if gpu.memory_gib is not None:
        words.append(f"gpu.memory_limit_mib={round(gpu.memory_gib * 1024)}")
    return words


def _group(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition(".")[0]


def _mode(name: str) -> TrainingMode:
    config = compose("train", overrides=[f"mode={name}"])
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)  # the schema's node is a mapping
    return TrainingMode(
        name=name,
        model=content["model"],
        optimizer=content["optimizer"],
        image_size=content["image_size"],
        global_batch_size=int(content["global_batch_size"]),
        max_epochs=int(content["trainer"]["max_epochs"]),
        moving_average=bool(content["callbacks"]["moving_average"]["enabled"]),
        pin_memory=bool(content["pin_memory"]),
    )
