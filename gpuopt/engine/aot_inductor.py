"""AOTInductor: the network compiled ahead of time into a package that needs no tracing.

The package holds machine code: load only what was built here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuopt.engine.cache_key import processor_key
from gpuopt.engine.calls import CallableEngine
from gpuopt.engine.compiled import missing_compiler
from gpuopt.engine.exporting import export_program, first_line, quiet
from gpuopt.engine.package_trial import require_no_crash
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.errors import FaultError, InputError

__all__ = ["AotInductor"]


class AotInductor:
    """Builds and loads packages of torch.export and AOTInductor.

    Args:
        options: For inductor, such as `{"max_autotune": True}`; they win over the engine's own.
    """

    name = "aot_inductor"
    suffix = ".pt2"

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        self._options = options or {}

    def unavailable(self, device: torch.device) -> str | None:
        """Say that a CPU needs a compiler; None when there is one."""
        return missing_compiler(self.name, device)

    def versions(self, device: torch.device) -> dict[str, str]:
        """Name the CPU: the code that starts kernels is compiled for it, on a GPU as well."""
        return processor_key()

    def build(self, request: EngineRequest, network: TrainedNetwork, path: Path) -> None:
        """Compile the network; see `Backend`."""
        if reason := self.unavailable(request.device):
            raise InputError(reason)
        program = export_program(network, request)
        # Weights become constants: inductor then lays them out for the processor, once.
        options = {"freezing": True} if request.device.type == "cpu" else {}
        try:
            with torch.inference_mode(False), torch.no_grad(), quiet():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(path), inductor_configs={**options, **self._options}
                )
        except Exception as error:  # the compilers raise errors of many kinds
            raise FaultError(
                f"{network.name} cannot be compiled ahead of time ({first_line(error)}): take "
                "engine=onnx or engine=compiled"
            ) from error
        if request.device.type == "cuda":
            require_no_crash(request, path)

    def load(self, request: EngineRequest, path: Path) -> Engine:
        """Load a package; see `Backend`."""
        index = request.device.index if request.device.type == "cuda" else None
        try:
            with quiet():
                run: Callable[[Tensor], Tensor] = torch._inductor.aoti_load_package(
                    str(path), device_index=-1 if index is None else index
                )
        except Exception as error:  # a damaged or foreign package
            raise FaultError(f"{path} cannot be loaded ({first_line(error)})") from error
        return CallableEngine(self.name, request, lambda images: _classified(run, images))


def _classified(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Call a package and word its out-of-memory error as PyTorch's, which callers catch."""
    try:
        return run(images.contiguous())
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise
