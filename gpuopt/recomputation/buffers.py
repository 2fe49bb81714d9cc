"""Let a forward pass run a second time without writing to buffers a second time."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["BufferGuard", "BufferKeeper"]

Place = tuple[dict[str, Any], str]


class BufferKeeper:
    """Knows which buffers of a block a forward pass writes to.

    Those of BatchNorm always count; of others one forward pass shows it, and they are copied in
    later ones only when they were seen to change.

    Args:
        block: Whose buffers they are.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._quiet: set[str] = set()

    def guard(self) -> "BufferGuard":
        """Note the values before a forward pass."""
        return BufferGuard(self._places())

    def learn(self, guard: "BufferGuard") -> None:
        """See from a forward pass that has ended which buffers it has left alone."""
        self._quiet |= guard.unwritten()

    def _places(self) -> dict[str, Place]:
        found: dict[str, Place] = {}
        for prefix, part in self._block.named_modules():
            may_learn = not isinstance(part, _NormBase)  # one may be set free in mid-training
            for name, value in part._buffers.items():
                full_name = f"{prefix}.{name}"
                if value is not None and not (may_learn and full_name in self._quiet):
                    found[full_name] = (part._buffers, name)
        return found


class BufferGuard:
    """Gives a repeated forward pass the buffers of the first one, and takes its writes away.

    A context that may be entered several times.

    Args:
        places: By full name, dictionaries of buffers and names in them.
    """

    def __init__(self, places: dict[str, Place]) -> None:
        self._names = list(places)
        self._places = list(places.values())
        self._values = [place[name] for place, name in self._places]
        self._versions = [_version(value) for value in self._values]
        self._copies = _copies(self._values)
        self._own: list[Tensor] = []

    def unwritten(self) -> set[str]:
        """Name the buffers that are still the same tensor with the same values."""
        return {
            full_name
            for full_name, (place, name), value, version in zip(
                self._names, self._places, self._values, self._versions, strict=True
            )
            if place[name] is value and version >= 0 and version == _version(value)
        }

    def __enter__(self) -> None:
        self._own = [place[name] for place, name in self._places]
        for members, numbers in self._copies:
            sizes = [self._values[index].numel() for index in members]
            for index, part in zip(members, torch.split(numbers, sizes), strict=True):
                place, name = self._places[index]
                # No view: the writes to one buffer must not count as writes to all of them.
                place[name] = part.view(self._values[index].shape).clone()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for (place, name), value in zip(self._places, self._own, strict=True):
            place[name] = value
        self._own = []


@torch.no_grad()
def _copies(values: list[Tensor]) -> list[tuple[list[int], Tensor]]:
    """Copy tensors, those of one kind by one operation."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, value in enumerate(values):
        kinds.setdefault((value.device, value.dtype), []).append(index)
    return [
        (members, torch.cat([values[index].detach().reshape(-1) for index in members]))
        for members in kinds.values()
    ]


def _version(value: Tensor) -> int:
    """Return how often a tensor was written to; -1 where that is not counted."""
    return -1 if value.is_inference() else value._version
