"""Tensors in reference cycles, whose memory waits for Python's garbage collector."""

import gc
from collections import Counter
from dataclasses import dataclass

from torch import Tensor

__all__ = ["CycleCatch", "TensorCycles"]


@dataclass(frozen=True)
class TensorCycles:
    """What was found in reference cycles.

    Attributes:
        tensors_per_step: How many tensors.
        bytes_per_step: Of their storages.
        holders: Classes of the objects that refer to them.
    """

    tensors_per_step: float
    bytes_per_step: float
    holders: tuple[str, ...]


class CycleCatch:
    """Lets garbage pile up for a few steps and looks at it."""

    def __init__(self) -> None:
        self._was_enabled = gc.isenabled()

    def start(self) -> None:
        """Collect what is there, and nothing from now on."""
        gc.collect()
        gc.disable()

    def stop(self, steps: int) -> TensorCycles | None:
        """Look at what has piled up, and free it.

        Args:
            steps: Optimizer steps since the start.

        Returns:
            None when no tensor is in a cycle.
        """
        before = gc.get_debug()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            found = _look(gc.garbage, steps)
        finally:
            gc.set_debug(before)
            gc.garbage.clear()
            if self._was_enabled:
                gc.enable()
            gc.collect()
        return found


def _look(garbage: list[object], steps: int) -> TensorCycles | None:
    tensors = [one for one in garbage if issubclass(type(one), Tensor)]
    if not tensors:
        return None
    known = {id(tensor) for tensor in tensors}
    storages = {}
    for tensor in tensors:
        assert isinstance(tensor, Tensor)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    holders: Counter[str] = Counter()
    for one in garbage:
        if id(one) not in known and any(id(to) in known for to in gc.get_referents(one)):
            holders[type(one).__name__] += 1
    names = tuple(name for name, _ in holders.most_common(5))
    return TensorCycles(len(tensors) / steps, sum(storages.values()) / steps, names)
