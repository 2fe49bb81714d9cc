"""Compiling the backbone of a classifier: in a mode that was given, or where it pays back."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from gpuopt.callbacks import CompileChooser
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError, nearest
from gpuopt.model import Classifier
from gpuopt.session.batch_search import is_searched
from gpuopt.session.plan import Plan
from gpuopt.steps.compiled_part import GraphedCall

__all__ = [
    "CompileConfig",
    "CompileSettings",
    "compile_backbone",
    "compile_choosers",
    "may_accumulate",
    "with_compiled",
]

_AUTO = "auto"
_TUNED_WITHOUT_GRAPHS = "max-autotune-no-cudagraphs"


class CompileSettings(Protocol):
    """`compile=`; see `gpuopt.schema.Compile`."""

    mode: str
    backend: str
    time_limit_s: float


class CompileConfig(Protocol):
    """What `compile_choosers` reads of a run's settings; see `gpuopt.schema.TrainConfig`."""

    cache_dir: str | None

    @property
    def compile(self) -> CompileSettings:
        """Return `compile=`."""
        ...


def may_accumulate(plan: Plan, callbacks: Mapping[str, Any], micro_batch_size: int | str) -> bool:
    """Tell whether several micro-batches on a GPU make up a step, or may do so later.

    Args:
        plan: With the micro-batch as it is planned, and all global batches.
        callbacks: `callbacks=`: of them one may search for a micro-batch, one may change it.
        micro_batch_size: As it was asked for.
    """
    adaptive = callbacks.get("adaptive_batch_size")
    return plan.accelerator == "cuda" and (
        plan.global_batches.largest > plan.micro_batch_size * plan.devices
        or is_searched(callbacks, micro_batch_size)
        or (adaptive is not None and bool(adaptive["enabled"]))
    )


def compile_backbone(
    model: Classifier, mode: str, backend: str, *, accumulates: bool = False
) -> None:
    """Compile the backbone in place, so that the names of its weights in checkpoints stay.

    Args:
        model: Its backbone is compiled when it runs for the first time.
        mode: `off`, `default`, `reduce-overhead` or `max-autotune`; `auto` leaves it to
            `compile_choosers`.
        backend: One of torch's.
        accumulates: Whether gradients of several micro-batches are added up, which CUDA graphs
            do not allow: they write into the same memory again. `max-autotune` then goes without.

    Raises:
        InputError: When there is no such backend, or `reduce-overhead` is to accumulate.
    """
    if mode == "off":
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(f"compile.backend={backend}: no such backend{nearest(backend, known)}")
    if mode == "reduce-overhead" and accumulates:
        raise InputError(
            "compile.mode=reduce-overhead: its CUDA graphs cannot add up gradients, and here "
            "several micro-batches make up a step, or may do so: give a micro_batch_size that "
            "holds the global batch, or take compile.mode=default"
        )
    if mode == "default":
        model.backbone.compile(backend=backend)
    elif mode == "max-autotune" and accumulates:
        model.backbone.compile(mode=_TUNED_WITHOUT_GRAPHS, backend=backend)
    elif mode != _AUTO:
        GraphedCall(model.backbone, mode, backend)


def compile_choosers(
    config: CompileConfig, plan: Plan, data: ImageDataModule, total_steps: int
) -> list[CompileChooser]:
    """Make the callback that decides `compile.mode=auto` when training starts; else none.

    It comes after the search for the micro-batch, at which it times steps.

    Args:
        config: The run's settings.
        plan: With the global batches.
        data: Gives the batch to try, and knows the micro-batch.
        total_steps: Optimizer steps of the whole run.
    """
    if config.compile.mode != _AUTO:
        return []
    share = math.ceil(plan.global_batch_size / plan.devices)

    def size() -> int:
        return min(data.micro_batch_size, share)

    chooser = CompileChooser(
        backend=config.compile.backend,
        time_limit_s=config.compile.time_limit_s,
        total_steps=total_steps,
        batches_per_step=lambda: share // size(),
        sample_batch=lambda: data.sample_batch(size()),
        cache_dir=config.cache_dir,
    )
    return [chooser]


def with_compiled(plan: Plan, callbacks: Iterable[Any]) -> Plan:
    """Take over what was chosen, with its evidence."""
    for callback in callbacks:
        if isinstance(callback, CompileChooser) and callback.choice is not None:
            return plan.with_choice(callback.choice)
    return plan
