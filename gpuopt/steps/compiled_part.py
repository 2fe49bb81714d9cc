"""A part of a module that runs compiled or eager, and that never compiles by surprise."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["CallCount", "CompiledPart", "GraphedCall", "drop_graphs", "without_chance"]

# The same kernels as a mode with CUDA graphs, without these.
_WITHOUT_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


@dataclass
class CallCount:
    """How often a part was called.

    Attributes:
        total: All calls, since they are counted.
        eager: Those that ran uncompiled, because they were not like what was compiled.
    """

    total: int = 0
    eager: int = 0


class CompiledPart:
    """Compiles a part in place, so that the names of its weights stay.

    Compiled for the very shapes of its calls: shapes that are not fixed give slower kernels.

    Args:
        part: Of a module; a LightningModule as a whole logs from inside, which breaks the graph.
        mode: A mode of torch.compile.
        backend: One of torch's.

    Attributes:
        calls: While the part is frozen.
    """

    def __init__(self, part: nn.Module, mode: str, backend: str) -> None:
        self.calls = calls = CallCount()
        self._part = part
        call_part: Callable[..., Any] = part._call_impl

        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():  # left out of what is compiled
                calls.eager += 1
            return call_part(*args, **kwargs)

        options: dict[str, Any] = {} if mode == "default" else {"mode": mode}
        compiled: Callable[..., Any] = torch.compile(run, backend=backend, dynamic=False, **options)
        self._compiled = compiled
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
        self._part._compiled_call_impl = _only_what_is_compiled(self._compiled, self.calls)

    def count_anew(self) -> None:
        """Forget the calls so far."""
        self.calls.total = self.calls.eager = 0


def _only_what_is_compiled(compiled: Any, calls: CallCount) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.total += 1
        with torch.compiler.set_stance("eager_on_recompile"):
            return compiled(*args, **kwargs)

    return call


class GraphedCall:
    """Lets a part run in CUDA graphs, until `drop_graphs`.

    In these the gradients of a pass lie in memory that the next pass writes, so several passes
    cannot be added up. The part is compiled when it runs for the first time.

    Args:
        part: Of a module, compiled in place.
        mode: A mode of torch.compile with CUDA graphs.
        backend: One of torch's.
    """

    def __init__(self, part: nn.Module, mode: str, backend: str) -> None:
        part.compile(mode=_WITHOUT_GRAPHS[mode], backend=backend)
        self.without_graphs: Callable[..., Any] | None = part._compiled_call_impl
        part.compile(mode=mode, backend=backend)
        self._graphed: Any = part._compiled_call_impl
        part._compiled_call_impl = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the part."""
        return self._graphed(*args, **kwargs)


def drop_graphs(module: nn.Module) -> bool:
    """Let all parts run without CUDA graphs from now on; returns whether any ran in them."""
    has_dropped = False
    for part in module.modules():
        call = part._compiled_call_impl
        if isinstance(call, GraphedCall):
            part._compiled_call_impl, has_dropped = call.without_graphs, True
    return has_dropped


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
