"""The search for the micro-batch at the start of a training: what it needs and what it changes."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from gpuopt.callbacks import BatchSizeFinder
from gpuopt.data import ImageDataModule
from gpuopt.session.plan import Plan

__all__ = ["is_searched", "search_arguments", "searching_where_asked", "with_found"]

_log = logging.getLogger(__name__)

_NAME = "batch_size_finder"


def searching_where_asked(
    callbacks: Mapping[str, Any], micro_batch_size: int | str
) -> dict[str, Any]:
    """Leave the search out where the micro-batch is given."""
    nodes = dict(callbacks)
    node = nodes.get(_NAME)
    if micro_batch_size != "auto" and node is not None and node["enabled"]:
        _log.info("micro_batch_size=%s is given, so none is searched for", micro_batch_size)
        nodes[_NAME] = {**node, "enabled": False}
    return nodes


def is_searched(callbacks: Mapping[str, Any], micro_batch_size: int | str) -> bool:
    """Tell whether `BatchSizeFinder` is to settle the micro-batch."""
    node = callbacks.get(_NAME)
    return micro_batch_size == "auto" and node is not None and bool(node["enabled"])


def search_arguments(plan: Plan, data: ImageDataModule) -> dict[str, Any]:
    """Return the arguments of `BatchSizeFinder` that no file can give."""

    def set_size(size: int) -> None:
        data.micro_batch_size = size

    return {
        "headroom_ratio": plan.gpu.headroom("measured"),
        "global_batch_size": plan.global_batches.largest,  # of all epochs
        "is_ragged": True,
        "prior": plan.memory,
        "sample_batch": data.sample_batch,
        "set_batch_size": set_size,
    }


def with_found(plan: Plan, callbacks: Iterable[Any]) -> Plan:
    """Take over what was found, with its evidence."""
    for callback in callbacks:
        if isinstance(callback, BatchSizeFinder) and callback.choice is not None:
            return plan.with_micro_batch(callback.choice)
    return plan
