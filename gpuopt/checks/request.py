"""What a report is asked, and what it answers."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import RenderableType

from gpuopt.hardware import (
    AbsentGpu,
    Gpu,
    Machine,
    TorchBuild,
    look_at_machine,
    torch_build,
    torch_versions,
)
from gpuopt.measure import Interval
from gpuopt.tta import TestTimeAugmentation

__all__ = ["CheckRequest", "KnownRun", "Report", "TrainingMode", "make_report"]


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
class TrainingMode:
    """What an option of `mode=` trains.

    Attributes:
        name: The option.
        model: The model's settings.
        optimizer: The optimizer's settings with `_target_`.
        image_size: `auto` (the card's) or pixels.
        global_batch_size: Samples per optimizer step.
        max_epochs: Passes over the training images.
        moving_average: Whether the weights are averaged.
        pin_memory: Whether batches are loaded into memory from which copies are fast.
    """

    name: str
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    image_size: int | str
    global_batch_size: int
    max_epochs: int
    moving_average: bool
    pin_memory: bool


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
        train_images: How many are trained with.
        modes: What composes each option of `mode=`, largest model first.
        words: What was typed, as far as `gpuopt train` takes it as well.
        run: A trained run, whose model is taken then.
        cache_dir: Folder of all caches; None means the user's cache folder.
        track: Passes pieces of work on and shows how far they have come.
        look: Looks at this machine; called when a report is about it.
        look_at_build: Looks at the installed PyTorch, which takes seconds.
        glance_at_build: Reads its versions alone.
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
    train_images: int = 1
    modes: Mapping[str, Callable[[], TrainingMode]] = field(default_factory=dict)
    words: Sequence[str] = ()
    run: KnownRun | None = None
    cache_dir: str | None = None
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter
    look: Callable[[], Machine] = look_at_machine
    look_at_build: Callable[[], TorchBuild] = torch_build
    glance_at_build: Callable[[], TorchBuild] = torch_versions

    @property
    def asked_size(self) -> int | None:
        """Side in pixels that was asked for; None: the model's own."""
        return None if self.image_size == "auto" else int(self.image_size)


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
