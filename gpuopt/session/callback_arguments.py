"""What the program itself gives to callbacks that a configuration names."""

from typing import Any

from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.measure.roofline import forward_flops
from gpuopt.session.batch_search import search_arguments
from gpuopt.session.plan import Plan

__all__ = ["callback_arguments"]


def callback_arguments(
    plan: Plan, data: ImageDataModule, cache_dir: str | None, model_name: str
) -> dict[str, dict[str, Any]]:
    """Collect arguments by the callback's name.

    Args:
        plan: Of the run.
        data: Of the run.
        cache_dir: Folder of all caches; None means the user's.
        model_name: timm model name.
    """
    exports = {name: {"cache_dir": cache_dir} for name in ("engine_export", "tensorrt_export")}
    return {
        "batch_size_finder": search_arguments(plan, data),
        "gpu_stats": _peak_arguments(plan, model_name),
        **exports,
    }


def _peak_arguments(plan: Plan, model_name: str) -> dict[str, Any]:
    """Collect what the share of the card's peak is computed from; on a CPU there is none."""
    if plan.accelerator != "cuda":
        return {}
    known = {"card": plan.gpu, "precision": plan.precision}
    try:
        return {**known, "forward_flops": forward_flops(model_name, plan.image_size)}
    except (InputError, RuntimeError, AssertionError):  # it is counted in the first batch instead
        return known
