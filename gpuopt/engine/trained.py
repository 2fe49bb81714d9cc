"""A trained module as the network that engines are made from."""

from typing import Any

import torch
from torch import Tensor, nn

from gpuopt.engine.protocol import TrainedNetwork
from gpuopt.errors import InputError

__all__ = ["network_of"]


def network_of(
    module: nn.Module,
    *,
    backbone: str = "backbone",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> TrainedNetwork:
    """Find backbone and normalisation of a module, such as `gpuopt.model.Classifier`.

    Args:
        module: Holds the network that maps normalised images to logits.
        backbone: Name of the attribute with the network; empty when the module is the network.
        mean: Per channel, for pixels in 0..255; None takes the module's buffer `mean`.
        std: Per channel, for pixels in 0..255; None takes the module's buffer `std`.

    Raises:
        InputError: When the module has no such attribute or no normalisation.
    """
    network: Any = getattr(module, backbone, None) if backbone else module
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{type(module).__name__} has no module {backbone!r} that maps images to logits: name "
            "the attribute with backbone=..."
        )
    return TrainedNetwork(
        network.eval(),
        _channels(module, "mean", mean),
        _channels(module, "std", std),
        str(getattr(module, "name", type(network).__name__)),
        _is_channels_last(module, network),
    )


def _channels(module: nn.Module, name: str, given: tuple[float, ...] | None) -> tuple[float, ...]:
    if given is not None:
        return tuple(map(float, given))
    found: Any = getattr(module, name, None)
    if not isinstance(found, Tensor):
        raise InputError(
            f"{type(module).__name__} does not say how images are normalised: give mean and std "
            "per channel, for pixels in 0..255"
        )
    return tuple(found.flatten().tolist())


def _is_channels_last(module: nn.Module, network: nn.Module) -> bool:
    told = getattr(module, "uses_channels_last", None)
    if isinstance(told, bool):
        return told
    weights = [p for p in network.parameters() if p.ndim == 4 and p.shape[-1] > 1]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
