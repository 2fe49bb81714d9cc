"""Whether a batch can be measured here, has to be predicted, or is the CPU's. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from gpuopt.errors import InputError
from gpuopt.hardware import AbsentGpu, DriverDevice, Gpu, recognise

__all__ = ["Route", "choose_route"]


@dataclass(frozen=True)
class Route:
    """How a batch is found.

    Attributes:
        kind: `measure`, `predict` or `cpu`.
        reason: Why, in one clause.
        devices: Those to measure on.
    """

    kind: Literal["measure", "predict", "cpu"]
    reason: str
    devices: tuple[DriverDevice, ...] = ()


def choose_route(
    gpu: AbsentGpu, present: Sequence[DriverDevice], gpu_ids: Sequence[int] | None, count: int
) -> Route:
    """Decide how the batch of a card is found.

    Args:
        gpu: The `gpu=` option. `auto` is what is here; a memory limit is a cap on that.
        present: The CUDA devices of this machine.
        gpu_ids: Positions of the devices to measure on; None takes the first ones.
        count: How many devices work together.

    Raises:
        InputError: When a device is not here that was asked for by its number, or another card
            than was asked for.
    """
    found = ", ".join(device.name for device in present) or "no NVIDIA GPU"
    if gpu.is_cpu:
        return _absent(Route("cpu", "the CPU was asked for"), gpu_ids)
    if gpu.name != "auto":
        fitting = [device for device in present if _is(device, gpu)]
        if not fitting and gpu_ids is None:
            return Route("predict", f"{gpu.name} is not in this machine: {found}")
        if gpu_ids is None and len(fitting) < count:
            return Route("predict", f"{count} x {gpu.name} are not in this machine: {found}")
        return _measured(gpu, fitting, gpu_ids, count, found)
    if gpu.memory_gib is not None or gpu.memory_mib is not None:
        return _absent(Route("predict", "a card that is known by its memory alone"), gpu_ids)
    if present:
        return _measured(gpu, present, gpu_ids, count, found)
    if gpu.memory_limit_mib is not None:
        route = Route("predict", "no NVIDIA GPU was found, so the limit stands for a card")
        return _absent(route, gpu_ids)
    return _absent(Route("cpu", "no NVIDIA GPU was found"), gpu_ids)


def _measured(
    gpu: Gpu,
    fitting: Sequence[DriverDevice],
    gpu_ids: Sequence[int] | None,
    count: int,
    found: str,
) -> Route:
    by_index = {device.index: device for device in fitting}
    if gpu_ids is None:
        chosen = list(by_index.values())[:count]
        if len(chosen) < count:
            raise InputError(f"trainer.devices={count}: this machine has {found}")
    else:
        missing = [number for number in gpu_ids if number not in by_index]
        if missing:
            card = "CUDA device" if gpu.name == "auto" else gpu.name
            raise InputError(f"gpu_ids: there is no {card} {missing[0]} here: {found}")
        chosen = [by_index[number] for number in gpu_ids]
    limit = gpu.memory_limit_mib
    capped = "" if limit is None else f", its memory capped to {limit} MiB"
    return Route("measure", f"on the card itself, in a fresh process{capped}", tuple(chosen))


def _absent(route: Route, gpu_ids: Sequence[int] | None) -> Route:
    if gpu_ids is not None:
        raise InputError(f"gpu_ids={list(gpu_ids)} are devices to measure on, and {route.reason}")
    return route


def _is(device: DriverDevice, gpu: AbsentGpu) -> bool:
    """Tell whether a device is the card of a preset, by driver name and memory."""
    card = Gpu(**{field.name: getattr(gpu, field.name) for field in fields(Gpu)})
    return recognise(device.name, device.memory_mib, {"asked": card}) is not None
