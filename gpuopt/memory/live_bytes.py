"""Counting the bytes that are alive while tensors without data come and go."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpuopt.memory.shapes_only import SHAPES_ONLY

__all__ = ["LiveBytes"]


class LiveBytes(TorchDispatchMode):
    """Follows every storage that operations create, and notes the sum alive after each.

    It sees what stays alive because Python still names it, the recomputation of checkpointed
    parts and the temporaries of backward, which counting saved tensors cannot.

    With a prime number of samples that no other dimension has, one step tells what a step of any
    size takes: a storage whose bytes are a multiple of it holds something of every sample, any
    other one holds nothing of them.

    Args:
        existing: Tensors that are not counted, such as parameters.
        samples: Samples of the batch; 1 counts all bytes as those of one sample.

    Attributes:
        history: Bytes alive after each operation since the mode was entered, without existing
            tensors: those that do not depend on the batch, and those of each sample.
    """

    def __init__(self, existing: Iterable[torch.Tensor], samples: int = 1) -> None:
        TorchDispatchMode.__init__(self)  # by name: pyproject.toml excuses its missing types
        self.history: list[tuple[int, int]] = []
        self._samples = samples
        self._fixed_bytes = 0
        self._sample_bytes = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in existing)

    @property
    def peak_bytes(self) -> int:
        """Highest sum at the number of samples that was run."""
        return max((fixed + self._samples * each for fixed, each in self.history), default=0)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = SHAPES_ONLY.get(func, func)(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor)
        self.history.append((self._fixed_bytes, self._sample_bytes))
        return out

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        sample_bytes, rest = divmod(storage.nbytes(), self._samples)
        change = (0, sample_bytes) if rest == 0 else (storage.nbytes(), 0)
        self._add(*change)
        weakref.finalize(storage, self._add, *(-part for part in change))

    def _add(self, fixed_bytes: int, sample_bytes: int) -> None:
        self._fixed_bytes += fixed_bytes
        self._sample_bytes += sample_bytes
