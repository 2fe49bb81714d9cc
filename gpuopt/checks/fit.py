"""Which micro-batch fits which card, predicted: `gpuopt check report=fit`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Group, RenderableType

from gpuopt.checks.card_fit import CardFit, SeedFit
from gpuopt.checks.cards import asked_cards
from gpuopt.checks.fit_table import cards_table, parts_table, seed_table
from gpuopt.checks.request import CheckRequest
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, SeedRow, resolve_precision
from gpuopt.memory import MemoryEstimate, MemorySetup, predict_memory
from gpuopt.recomputation import AUTO, NONE
from gpuopt.session.memory import memory_setup

__all__ = ["FitReport", "report"]

# Ways to run a model, by the words of the report, and what they change in a training.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"checkpointing": "none"},
    "checkpointed": {"checkpointing": "full"},  # or the level that the model's settings give
    "predict": {"checkpointing": "none", "training": False},
}


_TRAININGS = ("plain", "checkpointed")


@dataclass(frozen=True)
class FitReport:
    """The answer.

    Attributes:
        model_name: timm's name.
        image_size: Side in pixels.
        estimates: Of each way and precision, as far as the model has it.
        refusals: Why a way has no estimate.
        cards: Least memory first.
        seeds: Of the cards for which the guide has a row.
    """

    model_name: str
    image_size: int
    estimates: Mapping[tuple[str, str], MemoryEstimate]
    refusals: Mapping[str, str]
    cards: Sequence[CardFit]
    seeds: Sequence[SeedFit]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; sizes in bytes."""
        return {
            "evidence": "predicted",
            "model": self.model_name,
            "image_size": self.image_size,
            "memory": [
                {
                    "way": way,
                    "precision": precision,
                    "fixed_bytes": asdict(estimate.fixed),
                    "lines": [asdict(line) for line in estimate.lines],
                }
                for (way, precision), estimate in self.estimates.items()
            ],
            "refusals": dict(self.refusals),
            "cards": [_card_values(card) for card in self.cards],
            "guide": [_seed_values(seed) for seed in self.seeds],
        }

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        title = f"{self.model_name} at {self.image_size} px: the largest micro-batch, predicted"
        parts: list[RenderableType] = [cards_table(title, self.cards, tuple(WAYS))]
        parts += [*self.refusals.values(), parts_table(self.estimates)]
        if self.seeds:
            parts.append(seed_table(self.seeds))
        return Group(*parts)


def report(request: CheckRequest) -> FitReport:
    """Predict what fits.

    Raises:
        InputError: When timm does not know the model, or it does not take the image size or have
            the level of checkpointing that was asked for.
    """
    cards = {stem: (gpu, _precision(request, gpu)) for stem, gpu in asked_cards(request).items()}
    precisions = sorted({precision for _, precision in cards.values() if precision})
    if not precisions:  # the first card says why
        resolve_precision(request.precision, next(iter(cards.values()))[0], is_cuda=True)
    ways = {
        (way, precision): _setup(request, precision, way)
        for way in WAYS
        for precision in precisions
    }
    guided = {
        (stem, way): _setup(request, precision, way, gpu.seed.image_size)
        for stem, (gpu, precision) in cards.items()
        for way in _TRAININGS
        if precision and gpu.seed and gpu.seed.batch_size and gpu.seed.image_size
    }
    found: dict[MemorySetup, MemoryEstimate | InputError] = {}
    for setup in request.track(list(dict.fromkeys([*ways.values(), *guided.values()]))):
        found[setup] = _try(setup, request.cache_dir)
    refusals = {
        way: str(answer)
        for (way, _), setup in ways.items()
        if isinstance(answer := found[setup], InputError)
    }
    asked = str(request.model.get("checkpointing", NONE)) not in (NONE, AUTO)
    for way in ("plain", "checkpointed") if asked else ("plain",):
        if way in refusals:
            raise InputError(refusals[way])
    estimates = _estimates(ways, found)
    needs = _estimates(guided, found)
    return FitReport(
        model_name=str(request.model["name"]),
        image_size=next(iter(estimates.values())).image_size,
        estimates=estimates,
        refusals=refusals,
        cards=[_card_fit(estimates, stem, *card) for stem, card in cards.items()],
        seeds=[
            _seed_fit(needs, stem, cards[stem][0]) for stem in dict.fromkeys(s for s, _ in guided)
        ],
    )


def _estimates(
    setups: Mapping[tuple[str, str], MemorySetup],
    found: Mapping[MemorySetup, MemoryEstimate | InputError],
) -> dict[tuple[str, str], MemoryEstimate]:
    """Return the answers that are no refusals."""
    return {
        key: answer
        for key, setup in setups.items()
        if isinstance(answer := found[setup], MemoryEstimate)
    }


def _precision(request: CheckRequest, gpu: Gpu) -> str | None:
    try:
        return str(resolve_precision(request.precision, gpu, is_cuda=True).value)
    except InputError:  # the card cannot compute in it, another one can
        return None


def _setup(
    request: CheckRequest, precision: str, way: str, image_size: int | None = None
) -> MemorySetup:
    asked = None if request.image_size == "auto" else int(request.image_size)
    training = memory_setup(
        request.model,
        image_size or asked,
        precision,
        optimizer=request.optimizer,
        moving_average=request.moving_average,
    )
    changes = WAYS[way]
    if way == "checkpointed" and training.checkpointing not in (NONE, AUTO):
        changes = {}  # the level that was asked for
    return replace(training, **changes)


def _try(setup: MemorySetup, cache_dir: str | None) -> MemoryEstimate | InputError:
    try:
        return predict_memory(setup, cache_dir=cache_dir)
    except InputError as error:
        return error


def _card_fit(
    estimates: Mapping[tuple[str, str], MemoryEstimate],
    stem: str,
    gpu: Gpu,
    precision: str | None,
) -> CardFit:
    budget_bytes = gpu.budget_bytes()
    largest: dict[str, int | None] = dict.fromkeys(WAYS)
    for way in WAYS:
        if precision and (estimate := estimates.get((way, precision))):
            largest[way] = estimate.largest_batch(budget_bytes)
    return CardFit(stem, gpu, precision, largest)


def _seed_fit(needs: Mapping[tuple[str, str], MemoryEstimate], stem: str, gpu: Gpu) -> SeedFit:
    row, budget_bytes = gpu.seed or SeedRow(), gpu.budget_bytes()
    samples = row.batch_size or 0
    answers = {way: needs[stem, way] for way in _TRAININGS if (stem, way) in needs}
    return SeedFit(
        stem,
        gpu,
        row,
        {way: answer.peak_bytes(samples) for way, answer in answers.items()},
        {way: answer.largest_batch(budget_bytes) for way, answer in answers.items()},
    )


def _card_values(card: CardFit) -> dict[str, Any]:
    return {
        "gpu": card.preset,
        "name": card.gpu.name,
        "memory_mib": card.gpu.memory_mib,
        "headroom_ratio": card.gpu.headroom("predicted"),
        "budget_bytes": card.gpu.budget_bytes(),
        "precision": card.precision,
        "largest": dict(card.largest),
    }


def _seed_values(seed: SeedFit) -> dict[str, Any]:
    return {
        "gpu": seed.preset,
        "batch_size": seed.row.batch_size,
        "image_size": seed.row.image_size,
        "needed_bytes": dict(seed.needed_bytes),
        "largest": dict(seed.largest),
        "verdict": seed.verdict,
    }
