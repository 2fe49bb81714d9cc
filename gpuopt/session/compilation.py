"""Compiling the backbone of a classifier: in a mode that was given, or where it pays back."""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch

from gpuopt.callbacks import CompileChooser
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError, nearest
from gpuopt.model import Classifier
from gpuopt.session.plan import Plan

__all__ = [
    "CompileConfig",
    "CompileSettings",
    "compile_backbone",
    "compile_choosers",
    "with_compiled",
]

_AUTO = "auto"


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


def compile_backbone(model: Classifier, mode: str, backend: str) -> None:
    """Compile the backbone in place, so that the names of its weights in checkpoints stay.

    Args:
        model: Its backbone is compiled when it runs for the first time.
        mode: `off`, `default`, `reduce-overhead` or `max-autotune`; `auto` leaves it to
            `compile_choosers`.
        backend: One of torch's.

    Raises:
        InputError: When there is no such backend.
    """
    if mode == "off":
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(f"compile.backend={backend}: no such backend{nearest(backend, known)}")
    if mode != _AUTO:
        model.backbone.compile(mode=None if mode == "default" else mode, backend=backend)


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
