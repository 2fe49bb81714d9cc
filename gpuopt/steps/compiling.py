"""What is to be compiled, as a process of its own can be told it, without weights."""

import copy
import hashlib
import importlib.metadata
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from gpuopt.measure.compile_choice import CompileFailedError
from gpuopt.steps.compiled_part import CompiledPart, without_chance
from gpuopt.steps.compiler_cache import same_keys

__all__ = ["CompileTask", "PartCall", "left_memory_ratio", "matmul_precision", "run_part"]

# What decides what a compiler makes of a network.
_PACKAGES = ("torch", "triton", "timm", "gpuopt")


@dataclass(frozen=True)
class PartCall:
    """A call of a part in a training step.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        autocast: Format of automatic mixed precision; None without.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    autocast: torch.dtype | None


def run_part(part: nn.Module, call: PartCall, device: torch.device) -> Tensor:
    """Repeat a call; returns its output.

    Raises:
        TypeError: When the part returns anything but one tensor.
    """
    enabled = call.autocast is not None
    with torch.autocast(device.type, dtype=call.autocast, enabled=enabled):
        output = part(*call.args, **call.kwargs)
    if not isinstance(output, Tensor):
        raise TypeError(f"{type(part).__name__} returns no tensor but {type(output).__name__}")
    return output


@dataclass(frozen=True)
class CompileTask:
    """A part and a call of it, with shapes for tensors, and the settings that it runs under.

    Attributes:
        part: On the meta device.
        call: On the meta device.
        has_chance: Whether dropout draws; then a forward pass without is compiled as well.
        device: Where it is compiled for.
        backend: Of torch.compile.
        matmul_precision: See `torch.set_float32_matmul_precision`; None when it was never set,
            which the caches tell from its default.
        deterministic: Whether only deterministic kernels are allowed.
        threads: That PyTorch computes with on a CPU.
        memory_ratio: Share of the card's memory that compiling may take; None for all of it.
    """

    part: nn.Module
    call: PartCall
    has_chance: bool
    device: torch.device
    backend: str
    matmul_precision: str | None
    deterministic: bool
    threads: int
    memory_ratio: float | None = None

    @classmethod
    def of(
        cls,
        part: nn.Module,
        call: PartCall,
        device: torch.device,
        backend: str,
        *,
        has_chance: bool,
    ) -> "CompileTask":
        """Describe a part and a call under the present settings; nothing is copied but shapes."""
        shapes: dict[int, Any] = {
            id(tensor): _shape_of(tensor) for tensor in (*part.parameters(), *part.buffers())
        }
        args, kwargs = _pytree.tree_map_only(Tensor, _shape_of, (call.args, call.kwargs))
        return cls(
            copy.deepcopy(part, shapes),
            PartCall(args, kwargs, call.autocast),
            has_chance,
            device,
            backend,
            matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
        )

    def digest(self, mode: str) -> str:
        """Return a name for what compiling this in a mode leaves in PyTorch's caches.

        Other versions, another card of the machine (its number is part of the caches' keys) and
        other source of the part's classes are another name; not so functions that these call.
        """
        tensors = (*self.part.parameters(), *self.part.buffers())
        tensors = (*tensors, *_pytree.tree_leaves((self.call.args, self.call.kwargs)))
        is_cuda = self.device.type == "cuda"
        kind = torch.cuda.get_device_name(self.device) if is_cuda else self.device.type
        question = [
            *(*map(_version, _PACKAGES), *_sources(self.part), kind, self.device.index),
            *(torch.__version__, mode, self.backend, self.has_chance, self.call.autocast),
            *(self.matmul_precision, self.deterministic, self.threads, self.part),
            *((tuple(t.shape), t.stride(), t.dtype) for t in tensors if isinstance(t, Tensor)),
        ]
        return hashlib.sha256(repr(question).encode()).hexdigest()[:32]

    def compile(self, mode: str) -> None:
        """Compile with made-up numbers, as the first step of a process that starts."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            if self.memory_ratio is not None:
                torch.cuda.set_per_process_memory_fraction(self.memory_ratio, self.device)
        if self.matmul_precision is not None:
            torch.set_float32_matmul_precision(self.matmul_precision)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.set_num_threads(self.threads)
        _fill(self.part, self.device)
        args, kwargs = _pytree.tree_map_only(
            Tensor, lambda t: _filled(t, self.device), (self.call.args, self.call.kwargs)
        )
        call = PartCall(args, kwargs, self.call.autocast)
        CompiledPart(self.part, mode, self.backend).compiling()
        with same_keys():
            torch.autograd.backward(run_part(self.part, call, self.device).float().sum())
            if self.has_chance:
                with torch.no_grad(), without_chance(self.part):
                    run_part(self.part, call, self.device)


def left_memory_ratio(device: torch.device) -> float | None:
    """Return what a limit on this process's memory leaves to another one; None without a limit.

    Both together are to take no more of the card than this one alone is allowed.
    """
    if device.type != "cuda":
        return None
    allowed = torch.cuda.get_per_process_memory_fraction(device)
    if allowed >= 1:
        return None
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    return max(0.0, allowed - torch.cuda.memory_reserved(device) / total_bytes)


def matmul_precision() -> str | None:
    """Return what `torch.set_float32_matmul_precision` was told; None when it never was.

    Raises:
        CompileFailedError: When each backend was told by itself; then PyTorch cannot say it.
    """
    if torch.backends.cuda.matmul.fp32_precision == "none":
        return None
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        raise CompileFailedError(
            "torch.backends.cuda.matmul.fp32_precision is set, which PyTorch's compiler cannot "
            "read: call torch.set_float32_matmul_precision instead"
        ) from None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sources(part: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Yield the files of a part's classes with sums of their text; None where there is no file."""
    classes = {base for inner in part.modules() for base in type(inner).__mro__[:-1]}
    modules = sorted({kind.__module__ for kind in classes})
    by_module = {kind.__module__: kind for kind in classes}
    for name in modules:
        try:
            text = Path(inspect.getfile(by_module[name])).read_bytes()
        except (OSError, TypeError):  # defined at a prompt
            yield name, None
        else:
            yield name, hashlib.sha256(text).hexdigest()


def _shape_of(tensor: Tensor) -> Tensor:
    shape = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(shape, requires_grad=tensor.requires_grad)
    return shape.requires_grad_(tensor.requires_grad)


def _filled(shape: Tensor, device: torch.device) -> Tensor:
    numbers = torch.empty_strided(shape.shape, shape.stride(), dtype=shape.dtype, device=device)
    if shape.is_floating_point():
        with torch.no_grad():
            numbers.uniform_(0.01, 0.02)  # positive, as a variance has to be
    else:
        numbers.zero_()  # an index that there is
    if isinstance(shape, nn.Parameter):
        return nn.Parameter(numbers, requires_grad=shape.requires_grad)
    return numbers.requires_grad_(shape.requires_grad)


def _fill(part: nn.Module, device: torch.device) -> None:
    """Put numbers in the place of all shapes; what is shared stays shared."""
    made: dict[int, Any] = {}
    for inner in part.modules():
        places: tuple[dict[str, Any], ...] = (inner._parameters, inner._buffers)
        for place in places:
            for name, shape in place.items():
                if shape is not None:
                    place[name] = made.setdefault(id(shape), _filled(shape, device))
