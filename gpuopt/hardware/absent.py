"""A card that need not be there, for predictions: a preset, or nothing but its memory."""

import math
from dataclasses import dataclass, fields

from gpuopt.errors import InputError
from gpuopt.hardware.gpu import Gpu

__all__ = ["AbsentGpu"]

_MOST_GIB = 1024
_ASSUMED_PRECISION = "bf16"


@dataclass
class AbsentGpu(Gpu):
    """A preset, which may be told by its memory alone.

    Attributes:
        memory_gib: Memory in GiB; with `gpu=auto` a card without a name.
    """

    memory_gib: float | None = None

    def check(self) -> None:
        """Check all numbers.

        Raises:
            InputError: For an absurd one, naming its key, or two memories of one card.
        """
        super().check()
        size = self.memory_gib
        if size is None:
            return
        if not (math.isfinite(size) and 0 < size <= _MOST_GIB):
            raise InputError(f"gpu.memory_gib={size}: must be above 0 and at most {_MOST_GIB}")
        if self.name == "auto" and self.memory_mib is not None:
            raise InputError("gpu.memory_gib and gpu.memory_mib are one memory: give one of them")

    @property
    def is_nameless(self) -> bool:
        """Whether only a memory is known."""
        return self.name == "auto" and self._memory_mib() is not None

    def card(self) -> Gpu:
        """Return the card.

        Without a name half precision is assumed, which all cards but the GTX 16 can compute in.
        """
        values = {field.name: getattr(self, field.name) for field in fields(Gpu)}
        memory_mib = self._memory_mib()
        if self.is_nameless and memory_mib is not None:
            values["name"] = f"{memory_mib / 1024:g} GiB"
            values["precision"] = self.precision or _ASSUMED_PRECISION
        card = Gpu(**{**values, "memory_mib": memory_mib})
        card.check()
        return card

    def _memory_mib(self) -> int | None:
        if self.memory_gib is not None:
            return round(self.memory_gib * 1024)
        return self.memory_mib or (self.memory_limit_mib if self.name == "auto" else None)
