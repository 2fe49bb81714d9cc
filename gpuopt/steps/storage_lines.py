"""The line of code that made each tensor in host memory that is still alive."""

import sys
import weakref
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["StorageLines"]

_MOST_FRAMES = 40


class StorageLines(TorchDispatchMode):
    """Notes, for every storage that an operation makes while it is on, who asked for it.

    Also storages that only a graph keeps are known. CUDA has a history of its own.

    Args:
        choose: Picks a line from frames, innermost first.
    """

    def __init__(self, choose: Callable[[list[tuple[str, int]]], tuple[str, int]]) -> None:
        TorchDispatchMode.__init__(self)  # by name: pyproject.toml excuses its missing types
        self._choose = choose
        self._made: weakref.WeakKeyDictionary[Any, tuple[str, int]] = weakref.WeakKeyDictionary()

    @property
    def by_storage(self) -> object:
        """What holds the notes: a container that grows itself."""
        return vars(self._made)["data"]

    def alive(self) -> list[tuple[tuple[str, int], int]]:
        """List the line and the bytes of each storage that is still there."""
        return [(line, storage.nbytes()) for storage, line in list(self._made.items())]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                if storage not in self._made and not _is_of(storage, args):
                    self._made[storage] = self._choose(_frames(sys._getframe(1)))
        return out


def _is_of(storage: Any, args: tuple[Any, ...]) -> bool:
    """Tell a view, and what was changed in place: it was made before."""
    pointer = storage.data_ptr()
    tensors = [one for one in args if isinstance(one, torch.Tensor)]
    return any(one.untyped_storage().data_ptr() == pointer for one in tensors)


def _frames(frame: FrameType | None) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    while frame is not None and len(found) < _MOST_FRAMES:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found
