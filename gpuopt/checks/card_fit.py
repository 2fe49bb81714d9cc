"""What fits one card, and what becomes of the batch that the optimisation guide gives for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpuopt.hardware import Gpu, SeedRow

__all__ = ["CardFit", "SeedFit"]


@dataclass(frozen=True)
class CardFit:
    """What fits one card.

    Attributes:
        preset: What `gpu=` takes, or the memory of a card without a name.
        gpu: The card.
        precision: That it computes in; None when it cannot compute in the one asked for.
        largest: The largest micro-batch of each way, None where there is none such.
    """

    preset: str
    gpu: Gpu
    precision: str | None
    largest: Mapping[str, int | None]


@dataclass(frozen=True)
class SeedFit:
    """What becomes of the batch that the optimisation guide gives for a card.

    Attributes:
        preset: What `gpu=` takes.
        gpu: The card.
        row: The guide's row for it.
        needed_bytes: Of the guide's batch at its size, by way; a way is left out when the model
            does not have it at that size.
        largest: What fits at that size instead, by way.
    """

    preset: str
    gpu: Gpu
    row: SeedRow
    needed_bytes: Mapping[str, int]
    largest: Mapping[str, int]

    @property
    def verdict(self) -> str:
        """`fits`, `checkpointed only`, `does not fit`, or `not for this model`."""
        if not self.needed_bytes:
            return "not for this model"
        budget_bytes = self.gpu.budget_bytes()
        fits = [way for way, needed in self.needed_bytes.items() if needed <= budget_bytes]
        if "plain" in fits:
            return "fits"
        return "checkpointed only" if fits else "does not fit"
