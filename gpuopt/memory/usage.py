"""What fills a device: a table of what a module, its optimizers and everything else hold."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gpuopt.memory.meter import MemoryMeter

__all__ = ["MemoryUsage", "measure_usage"]


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes of one device by what holds them; None is what could not be measured.

    Attributes:
        parameters: Of the module.
        gradients: Of its parameters.
        optimizer: State of the optimizers.
        buffers: Of the module.
        workspace: What the matrix library keeps for itself.
        other_tensors: All other tensors of this process, such as averaged weights and images.
        cached: What the allocator holds in pieces that no tensor uses.
        free: What the driver would still give.
        elsewhere: Other processes, and this one's CUDA context.
        total: The device's memory.
        limit: What the allocator may hold at most.
        activations_per_sample: What each further sample of a micro-batch adds to the peak, where
            two sizes were measured.
    """

    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    workspace: int | None = None
    other_tensors: int | None = None
    cached: int | None = None
    free: int | None = None
    elsewhere: int | None = None
    total: int | None = None
    limit: int | None = None
    activations_per_sample: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        """Return plain values with their unit in the names."""
        return {f"{name}_bytes": value for name, value in asdict(self).items()}

    def table(self) -> str:
        """Word it as lines of name and MiB."""
        values = [(name.replace("_", " "), value) for name, value in asdict(self).items()]
        width = max(len(name) for name, _ in values)
        return "\n".join(f"  {name:<{width}}  {_in_mib(value)}" for name, value in values)


def measure_usage(
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    meter: MemoryMeter | None,
    *,
    activations_per_sample: float | None = None,
) -> MemoryUsage:
    """Measure who holds a device's memory, between steps.

    Args:
        module: On its device.
        optimizers: Of the module.
        meter: Reads the device; None leaves out what only a device knows.
        activations_per_sample: Bytes, if known.
    """
    parameters = list(module.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    states = [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    known = {
        "parameters": _held_bytes(parameters),
        "gradients": _held_bytes(gradients),
        "optimizer": _held_bytes(states),
        "buffers": _held_bytes(module.buffers()),
    }
    per_sample = None if activations_per_sample is None else round(activations_per_sample)
    if meter is None:
        return MemoryUsage(**known, activations_per_sample=per_sample)
    workspace = meter.workspace_bytes()
    reading = meter.read()  # after it, since measuring the workspace gives it back
    return MemoryUsage(
        **known,
        workspace=workspace,
        other_tensors=max(0, reading.allocated_bytes - sum(known.values())),
        cached=max(0, reading.reserved_bytes - reading.allocated_bytes),
        free=reading.free_bytes,
        elsewhere=reading.elsewhere_bytes,
        total=reading.total_bytes,
        limit=reading.limit_bytes,
        activations_per_sample=per_sample,
    )


def _held_bytes(tensors: Iterable[Tensor]) -> int:
    """Add up the memory behind tensors; what several of them share counts once."""
    held: dict[Any, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


def _in_mib(value: int | None) -> str:
    return "not measured" if value is None else f"{value / 2**20:12.1f} MiB"
