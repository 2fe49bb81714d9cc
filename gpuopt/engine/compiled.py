"""torch.compile of the served network, for batches of two constant sizes."""

from collections.abc import Callable

import torch
from torch import Tensor

from gpuopt.engine.calls import CallableEngine
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.served_model import serve
from gpuopt.errors import InputError
from gpuopt.steps.compiler_cache import missing_compiler

__all__ = ["Compiled", "compiling_obstacle"]


class Compiled:
    """Compiles at the first call of each size: 1 for latency, the maximum for throughput.

    Args:
        mode: Of torch.compile; None takes `reduce-overhead` (CUDA graphs) on a GPU and `default`
            on a CPU.
        backend: For example `inductor`.
    """

    name = "compiled"

    def __init__(self, mode: str | None = None, backend: str = "inductor") -> None:
        self._mode = mode
        self._backend = backend

    def unavailable(self, device: torch.device) -> str | None:
        """Say that there is no compiler; None when there is one."""
        return compiling_obstacle(self.name, device) if self._backend == "inductor" else None

    def wrap(self, request: EngineRequest, network: TrainedNetwork) -> Engine:
        """Make the engine.

        Raises:
            InputError: When there is no compiler.
            FaultError: When the network does not run on images of the request's size.
        """
        if reason := self.unavailable(request.device):
            raise InputError(reason)
        is_cuda = request.device.type == "cuda"
        mode = self._mode or ("reduce-overhead" if is_cuda else "default")
        compiled: Callable[[Tensor], Tensor] = torch.compile(
            serve(network, request),
            dynamic=False,
            backend=self._backend,
            mode=mode if self._backend == "inductor" else None,  # others take none
        )
        sizes = sorted({1, request.optimal_batch_size, request.max_batch_size})
        # A CUDA graph writes every result into the same memory.
        run = (lambda images: compiled(images).clone()) if is_cuda else compiled
        return CallableEngine(self.name, request, run, sizes)


def compiling_obstacle(engine: str, device: torch.device) -> str | None:
    """Say in one line what a device lacks to compile an engine for it; None when nothing."""
    reason = missing_compiler(device, "inductor")
    return None if reason is None else f"engine={engine}: {reason}; or take engine=onnx"
