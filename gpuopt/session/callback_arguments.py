"""What the program itself gives to callbacks that a configuration names."""

from typing import Any

from gpuopt.data import ImageDataModule
from gpuopt.session.batch_search import search_arguments
from gpuopt.session.plan import Plan

__all__ = ["callback_arguments"]


def callback_arguments(
    plan: Plan, data: ImageDataModule, cache_dir: str | None
) -> dict[str, dict[str, Any]]:
    """Collect arguments by the callback's name.

    Args:
        plan: Of the run.
        data: Of the run.
        cache_dir: Folder of all caches; None means the user's.
    """
    exports = {name: {"cache_dir": cache_dir} for name in ("engine_export", "tensorrt_export")}
    return {"batch_size_finder": search_arguments(plan, data), **exports}
