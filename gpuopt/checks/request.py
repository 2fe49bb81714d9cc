"""What a report is asked, and what it answers."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import RenderableType

from gpuopt.hardware import AbsentGpu, Gpu
from gpuopt.measure import Interval
from gpuopt.tta import TestTimeAugmentation

__all__ = ["CheckRequest", "KnownRun", "Report", "make_report"]


@dataclass(frozen=True)
class KnownRun:
    """What a trained run tells.

    Attributes:
        model_name: timm's name.
        image_size: Side in pixels.
        models: That are averaged.
        worth: Macro-F1 by the fingerprint of a policy of views.
        worth_reason: From what, or why there is none.
    """

    model_name: str
    image_size: int
    models: int
    worth: Mapping[str, Interval]
    worth_reason: str


@dataclass(frozen=True)
class CheckRequest:
    """The settings of `gpuopt check`.

    Attributes:
        gpu: A preset; `auto` without a memory stands for the whole catalogue.
        catalogue: All presets by the name that `gpu=` takes.
        model: The model's settings.
        optimizer: The optimizer's settings with `_target_`.
        precision: `auto` (each card's own) or a name.
        image_size: `auto` (the model's own) or pixels.
        moving_average: Whether the weights are averaged.
        policies: Policies of views.
        images: How many are to be predicted.
        run: A trained run, whose model is taken then.
        cache_dir: Folder of all caches; None means the user's cache folder.
        track: Passes pieces of work on and shows how far they have come.
    """

    gpu: AbsentGpu
    catalogue: Mapping[str, Gpu]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    precision: str = "auto"
    image_size: int | str = "auto"
    moving_average: bool = False
    policies: Sequence[TestTimeAugmentation] = ()
    images: int = 1
    run: KnownRun | None = None
    cache_dir: str | None = None
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter


class Report(Protocol):
    """An answer, for people and for programs."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without `schema` and `report`."""

    def __rich__(self) -> RenderableType:
        """Return what a terminal shows, at most 100 columns wide."""


def make_report(name: str, request: CheckRequest) -> Report:
    """Make one report.

    Args:
        name: The module in `gpuopt.checks` whose function `report` makes it.
        request: The settings.

    Raises:
        InputError: When the settings do not work.
    """
    module = importlib.import_module(f"gpuopt.checks.{name}")
    answer: Report = module.report(request)
    return answer
