"""What surrounds the forward passes of a prediction: the precision and a bar."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["autocast_of", "progress_bar"]


def autocast_of(
    precision: str, device: torch.device
) -> Callable[[], AbstractContextManager[object]]:
    """Return what makes the context of forward passes in a precision on a device."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, kinds[precision], cache_enabled=False)


def progress_bar(visible: bool) -> Progress:
    """Make the bar of a prediction; one that is not visible does nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not visible,
        transient=True,
    )
