"""Choosing the side of the images where it is left to gpuopt: one rule for every command."""

from gpuopt.choice import Choice
from gpuopt.hardware.gpu import Gpu
from gpuopt.hardware.policy import recommended_image_size

__all__ = ["choose_image_size"]

_DEFAULT_SIDE = 224


def choose_image_size(requested: int | str, gpu: Gpu) -> Choice:
    """Settle the side of the images in pixels.

    Args:
        requested: Pixels, or `auto`, which takes the card's, else what suits its memory.
        gpu: The card that runs, be it here or not, or the preset `cpu`.
    """
    if requested != "auto":
        return Choice("image_size", int(requested), "given", "by mode, experiment or command line")
    if gpu.image_size is not None:
        return Choice("image_size", gpu.image_size, "table", f"recommended for {gpu.name}")
    if gpu.memory_mib is not None:
        side = recommended_image_size(gpu.memory_mib)
        return Choice("image_size", side, "table", f"recommended for {gpu.memory_mib} MiB")
    return Choice("image_size", _DEFAULT_SIDE, "table", f"{gpu.name} has no recommendation")
