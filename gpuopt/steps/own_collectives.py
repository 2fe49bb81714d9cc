"""Refuse a step in which a module talks to the other ranks: they would wait for every part."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as L
from torch.utils._python_dispatch import TorchDispatchMode

from gpuopt.errors import InputError

__all__ = ["refusing_collectives"]

_NAMESPACES = ("c10d", "_c10d_functional", "c10d_functional")


class _NoCollectives(TorchDispatchMode):
    """Raises before a collective operation begins."""

    def __init__(self, hook: str) -> None:
        TorchDispatchMode.__init__(self)  # by name: pyproject.toml excuses its missing types
        self._hook = hook

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.namespace in _NAMESPACES:
            raise InputError(
                f"{self._hook} itself exchanges tensors between ranks ({func}), which would wait "
                "for each other once one of them splits a batch: lower micro_batch_size"
            )
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def refusing_collectives(trainer: L.Trainer, hook: str) -> Iterator[None]:
    """Refuse collective operations inside the block, where there are several ranks.

    Every operation goes through Python in there, so use it for few forward passes only.

    Args:
        trainer: Knows the ranks.
        hook: Of the module, for the message.

    Raises:
        InputError: Before the operation.
    """
    with _NoCollectives(hook) if trainer.world_size > 1 else contextlib.nullcontext():
        yield
