"""What `gpuopt find_batch_size` found. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpuopt.choice import Choice, Evidence

__all__ = ["CardAnswer", "FindAnswer", "SizedProbe"]


@dataclass(frozen=True)
class SizedProbe:
    """One batch size and what it takes.

    Attributes:
        batch_size: Samples of a forward pass.
        allocated_bytes: Most bytes that torch's allocator hands out, without the CUDA context. None
            when memory ran out before.
        step_ms: Milliseconds of a step, or of a forward pass in inference; None when predicted.
        fits: Whether it is within the budget; of measured ones see `ProbeResult.fits`.
        thrashed: Whether the allocator had to give back its cache in every step, which is slow.
        with_context_bytes: The same memory and the CUDA context; None where measured, because
            neither the allocator nor what it finds free has a part in the context.
    """

    batch_size: int
    allocated_bytes: int | None
    step_ms: float | None
    fits: bool
    thrashed: bool = False
    with_context_bytes: int | None = None

    @property
    def samples_per_second(self) -> float | None:
        """Throughput, where it was measured."""
        return None if not self.step_ms else 1000 * self.batch_size / self.step_ms


@dataclass(frozen=True)
class CardAnswer:
    """The answer for one card.

    Attributes:
        card: Its name.
        device_index: Position in CUDA's order; None for a card that is not there.
        evidence: `measured`, `predicted`, or `table` on a CPU.
        reason: Why it is that evidence, in one clause.
        precision: Arithmetic of the step.
        headroom_ratio: Share of the memory that is kept free; None on a CPU.
        context_bytes: CUDA context that a prediction assumes; None where measured.
        free_bytes: What torch's allocator could have beside the context; None on a CPU.
        budget_bytes: What it may have: the free memory less the headroom; None on a CPU.
        largest: The largest batch that fits, 0 when not one sample does; None on a CPU, where
            nothing limits it.
        knee: The smallest batch at which throughput is nearly as high as at the largest; None
            where nothing was timed.
        chosen: The batch to use on this card; 0 when not one sample fits.
        why: The figures behind it, in one clause.
        probes: In the order in which they ran; predicted ones by size.
        levels: The largest batch by level of activation checkpointing, predicted.
        parts: What takes the memory at the chosen batch, 1 sample at least, in bytes, predicted;
            with the CUDA context.
    """

    card: str
    device_index: int | None
    evidence: Evidence
    reason: str
    precision: str
    headroom_ratio: float | None
    context_bytes: int | None
    free_bytes: int | None
    budget_bytes: int | None
    largest: int | None
    knee: int | None
    chosen: int
    why: str
    probes: Sequence[SizedProbe] = ()
    levels: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; sizes in bytes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CardAnswer":
        """Read what `as_dict` wrote, such as in another process."""
        probes = tuple(SizedProbe(**probe) for probe in values["probes"])
        return cls(**{**values, "probes": probes})


@dataclass(frozen=True)
class FindAnswer:
    """The answer for all cards that work together.

    Attributes:
        purpose: `train`, `predict` or `tta`.
        model_name: timm's name.
        image_size: Side in pixels.
        checkpointing: Level of activation checkpointing.
        cards: One each.
        choice: The batch to use, and why.
        target: Samples that had to fit, or None.
        shortfall: What was to fit and does not, in one line; None when all does.
        notes: What else is to be known, a line each.
    """

    purpose: str
    model_name: str
    image_size: int
    checkpointing: str
    cards: Sequence[CardAnswer]
    choice: Choice
    target: int | None = None
    shortfall: str | None = None
    notes: Sequence[str] = ()

    @property
    def largest(self) -> int | None:
        """The largest batch that fits every card; None on a CPU."""
        sizes = [card.largest for card in self.cards if card.largest is not None]
        return min(sizes, default=None)

    @property
    def target_met(self) -> bool | None:
        """Whether the target fits every card; None where none was given."""
        if self.target is None:
            return None
        return self.largest is not None and self.largest >= self.target

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; sizes in bytes."""
        return {
            "purpose": self.purpose,
            "model": self.model_name,
            "image_size": self.image_size,
            "checkpointing": self.checkpointing,
            "cards": [card.as_dict() for card in self.cards],
            "largest": self.largest,
            "choice": self.choice.as_dict(),
            "target": self.target,
            "target_met": self.target_met,
            "shortfall": self.shortfall,
            "notes": list(self.notes),
        }
