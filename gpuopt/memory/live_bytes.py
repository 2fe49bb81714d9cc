"""Counting the bytes that are alive while tensors without data come and go."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveBytes"]


class LiveBytes(TorchDispatchMode):
    """Follows every storage that operations create, and remembers the highest sum alive.

    It sees the recomputation of checkpointed parts and the temporaries of backward, which
    counting saved tensors cannot, and takes several times as long.

    Args:
        existing: Tensors that are not counted, such as parameters.

    Attributes:
        peak_bytes: Highest sum since the mode was entered, without existing tensors.
    """

    def __init__(self, existing: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mypy excludes no calls by super()
        self.peak_bytes = 0
        self._alive_bytes = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in existing)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf)
        return out

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size_bytes = storage.nbytes()
        self._known.add(storage)
        self._alive_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
        weakref.finalize(storage, self._forget, size_bytes)

    def _forget(self, size_bytes: int) -> None:
        self._alive_bytes -= size_bytes
