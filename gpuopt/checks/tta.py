"""What views cost on every card, predicted, and what they are worth: `gpuopt check report=tta`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gpuopt.checks.cards import asked_cards
from gpuopt.checks.request import CheckRequest, KnownRun
from gpuopt.checks.tta_table import cost_table, worth_table
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.measure import Interval
from gpuopt.session.tta_forecast import forecast_tta_time
from gpuopt.tta.time_model import TtaTime

__all__ = ["CardTime", "TtaReport", "report"]


@dataclass(frozen=True)
class CardTime:
    """What predictions take on a card.

    Attributes:
        preset: What `gpu=` takes.
        gpu: The card.
        time: Its parts; None where they cannot be predicted.
        minutes: By policy.
        refusal: Why there is no time.
    """

    preset: str
    gpu: Gpu
    time: TtaTime | None
    minutes: Mapping[str, Interval]
    refusal: str = ""


@dataclass(frozen=True)
class TtaReport:
    """The answer.

    Attributes:
        model_name: timm's name.
        image_size: Side in pixels.
        images: How many are predicted.
        models: That are averaged.
        views: Number of views by policy.
        cards: Least memory first.
        worth: Macro-F1 by policy; empty where no run tells.
        worth_reason: From what, or why not.
    """

    model_name: str
    image_size: int
    images: int
    models: int
    views: Mapping[str, int]
    cards: Sequence[CardTime]
    worth: Mapping[str, Interval]
    worth_reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "evidence": "predicted",
            "model": self.model_name,
            "image_size": self.image_size,
            "images": self.images,
            "models": self.models,
            "policies": [
                {
                    "name": name,
                    "views": count,
                    "macro_f1": self.worth[name].as_dict() if name in self.worth else None,
                }
                for name, count in self.views.items()
            ],
            "macro_f1_from": self.worth_reason,
            "cards": [_values(card) for card in self.cards],
        }

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        models = "" if self.models == 1 else f", the mean of {self.models} folds"
        title = (
            f"{self.model_name} at {self.image_size} px{models}: minutes for {self.images} images, "
            "predicted"
        )
        parts: list[RenderableType] = [cost_table(title, self.cards, self.views)]
        if self.worth:
            parts.append(worth_table(self.worth, self.views))
        return Group(*parts, Text(f"macro-F1: {self.worth_reason}"))


def report(request: CheckRequest) -> TtaReport:
    """Predict what the policies take on the cards in question.

    Raises:
        InputError: When timm does not know the model, or no card's time can be predicted.
    """
    run = request.run or _without_run(request)
    views = {policy.name: policy.parsed_views() for policy in request.policies}
    cards = []
    refused: InputError | None = None
    for stem, gpu in request.track(list(asked_cards(request).items())):
        try:
            time = forecast_tta_time(
                run.model_name,
                run.image_size,
                gpu,
                precision=request.precision,
                cache_dir=request.cache_dir,
            )
        except InputError as error:  # such as of a card that cannot compute in the precision
            refused = error
            cards.append(CardTime(stem, gpu, None, {}, str(error)))
            continue
        minutes = {
            name: time.minutes(request.images, seen, models=run.models)
            for name, seen in views.items()
        }
        cards.append(CardTime(stem, gpu, time, minutes))
    if refused is not None and all(card.time is None for card in cards):
        raise refused
    return TtaReport(
        model_name=run.model_name,
        image_size=run.image_size,
        images=request.images,
        models=run.models,
        views={name: len(seen) for name, seen in views.items()},
        cards=cards,
        worth={
            policy.name: run.worth[policy.fingerprint]
            for policy in request.policies
            if policy.fingerprint in run.worth
        },
        worth_reason=run.worth_reason,
    )


def _without_run(request: CheckRequest) -> KnownRun:
    """Take the model of the settings at its own or the given size."""
    from gpuopt.memory import MemorySetup, predict_memory

    asked = None if request.image_size == "auto" else int(request.image_size)
    name = str(request.model["name"])
    size = predict_memory(MemorySetup(name, asked, "fp32"), cache_dir=request.cache_dir).image_size
    return KnownRun(name, size, 1, {}, "left out, because no run is named: run=PATH")


def _values(card: CardTime) -> dict[str, Any]:
    time = card.time
    return {
        "gpu": card.preset,
        "name": card.gpu.name,
        "chunk_size": None if time is None else time.chunk_size,
        "views_per_second": None if time is None else 1 / time.forward_s,
        "minutes": {name: found.as_dict() for name, found in card.minutes.items()},
        "refusal": card.refusal or None,
    }
