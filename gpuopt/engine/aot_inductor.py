"""AOTInductor: the network compiled ahead of time into a package that needs no tracing.

The package holds machine code: load only what was built here.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from gpuopt.engine.aot_package import SHARED_CODE, fill, layout_of, open_package, write_layout
from gpuopt.engine.cache_key import processor_key
from gpuopt.engine.calls import CallableEngine
from gpuopt.engine.compiled import compiling_obstacle
from gpuopt.engine.exporting import export_program, export_served, first_line, quiet
from gpuopt.engine.package_trial import require_no_crash
from gpuopt.engine.protocol import Backend, Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.served_model import serve
from gpuopt.errors import FaultError, InputError

__all__ = ["AotInductor"]


class _Compiler:
    """What packages with and without weights have in common."""

    name = "aot_inductor"
    suffix = ".pt2"

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        self._options = options or {}

    def unavailable(self, device: torch.device) -> str | None:
        """Say that a CPU needs a compiler; None when there is one."""
        return compiling_obstacle(self.name, device) if device.type == "cpu" else None

    def versions(self, device: torch.device) -> dict[str, str]:
        """Name the CPU: the code that starts kernels is compiled for it, on a GPU as well."""
        options = {"options": repr(sorted(self._options.items()))} if self._options else {}
        return {**processor_key(), **options}

    def load(self, request: EngineRequest, path: Path) -> Engine:
        """Load a package; see `Backend`."""
        try:
            run = open_package(path, request.device)
        except Exception as error:  # a damaged or foreign package
            raise FaultError(f"{path} cannot be loaded ({first_line(error)})") from error
        return CallableEngine(self.name, request, lambda images: _classified(run, images))

    def _all_options(self, device: torch.device) -> dict[str, Any]:
        # Weights become constants: inductor then lays them out for the processor, once.
        return {**({"freezing": True} if device.type == "cpu" else {}), **self._options}

    def _compile(
        self, program: ExportedProgram, name: str, path: Path, options: dict[str, Any]
    ) -> None:
        try:
            with torch.inference_mode(False), torch.no_grad(), quiet():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(path), inductor_configs=options
                )
        except Exception as error:  # the compilers raise errors of many kinds
            raise FaultError(
                f"{name} cannot be compiled ahead of time ({first_line(error)}): take "
                "engine=onnx or engine=compiled"
            ) from error


class AotInductor(_Compiler):
    """Builds and loads packages of torch.export and AOTInductor.

    Args:
        options: For inductor, such as `{"max_autotune": True}`; they win over the engine's own.
    """

    def own_build(self, device: torch.device) -> str | None:
        """Say why code is not shared; see `SharingBackend`."""
        if self._all_options(device).get("freezing"):
            return "its weights are laid out for the CPU when it is compiled"
        if not _can_replace_weights():
            return f"PyTorch {torch.__version__} cannot put other weights into a package"
        return None

    def code(self) -> Backend:
        """Return what builds the code alone; see `SharingBackend`."""
        return _AotCode(self._options)

    def build(self, request: EngineRequest, network: TrainedNetwork, path: Path) -> None:
        """Compile the network; see `Backend`."""
        if reason := self.unavailable(request.device):
            raise InputError(reason)
        program = export_program(network, request)
        self._compile(program, network.name, path, self._all_options(request.device))
        if request.device.type == "cuda":
            require_no_crash(request, path)

    def build_from(
        self, code: Path, request: EngineRequest, network: TrainedNetwork, path: Path
    ) -> None:
        """Put the weights beside code that is there; see `SharingBackend`."""
        with quiet():
            fill(code, serve(network, request), path, request.device)


class _AotCode(_Compiler):
    """Builds packages without weights, which `AotInductor.build_from` fills."""

    name = "aot_inductor_code"

    def build(self, request: EngineRequest, network: TrainedNetwork, path: Path) -> None:
        """Compile the graph; see `Backend`."""
        if reason := self.unavailable(request.device):
            raise InputError(reason)
        served = serve(network, request)
        program = export_served(served, network.name, request)
        layout = layout_of(program, served)
        options = {**SHARED_CODE, **self._all_options(request.device)}
        self._compile(program, network.name, path, options)
        write_layout(path, layout)
        if request.device.type == "cuda":
            require_no_crash(request, path)


def _can_replace_weights() -> bool:
    """Say whether this PyTorch loads weights into a package without a copy of its own."""
    from torch._inductor import config
    from torch.export.pt2_archive._package import AOTICompiledModel

    load = getattr(AOTICompiledModel, "load_constants", None)
    return (
        load is not None
        and "user_managed" in inspect.signature(load).parameters
        and hasattr(config, "always_keep_tensor_constants")
        and hasattr(config.aot_inductor, "package_constants_in_so")
    )


def _classified(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Call a package and word its out-of-memory error as PyTorch's, which callers catch."""
    try:
        return run(images.contiguous())
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise
