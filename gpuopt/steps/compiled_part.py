"""A part of a module that runs compiled or eager, and that never compiles by surprise."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["CompiledPart", "without_chance"]


class CompiledPart:
    """Compiles a part in place, so that the names of its weights stay.

    Compiled for the very shapes of its calls: shapes that are not fixed give slower kernels.

    Args:
        part: Of a module; a LightningModule as a whole logs from inside, which breaks the graph.
        mode: A mode of torch.compile.
        backend: One of torch's.
    """

    def __init__(self, part: nn.Module, mode: str, backend: str) -> None:
        self._part = part
        options: dict[str, Any] = {} if mode == "default" else {"mode": mode}
        part.compile(backend=backend, dynamic=False, **options)
        self._compiled: Callable[..., Any] | None = part._compiled_call_impl
        self.eager()

    def eager(self) -> None:
        """Let the part run uncompiled."""
        self._part._compiled_call_impl = None

    def compiling(self) -> None:
        """Let the part run compiled, and be compiled when it has not been for such a call."""
        self._part._compiled_call_impl = self._compiled

    def frozen(self) -> None:
        """Let calls like those before run compiled, and all others uncompiled.

        Batches of another size, validation and numbers of another format would each be compiled
        anew in the middle of the training, for as long as that takes.
        """
        self._part._compiled_call_impl = _only_what_is_compiled(self._compiled)


def _only_what_is_compiled(compiled: Any) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("eager_on_recompile"):
            return compiled(*args, **kwargs)

    return call


@contextlib.contextmanager
def without_chance(part: nn.Module) -> Iterator[None]:
    """Let a part run without dropout, but with the statistics of the batch where it has them."""
    modes = {inner: inner.training for inner in part.modules()}
    for inner in modes:
        inner.training = isinstance(inner, _NormBase) and modes[inner]
    try:
        yield
    finally:
        for inner, mode in modes.items():
            inner.training = mode
