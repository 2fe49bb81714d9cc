"""A timm model without data, that behaves on the meta device as it would on CUDA."""

from typing import Any

import timm
import torch

from gpuopt.errors import InputError, nearest
from gpuopt.memory.autocast import Emulation, emulate_cuda
from gpuopt.memory.setup import MemorySetup

__all__ = ["MetaModel"]


class MetaModel:
    """A model on the meta device, where tensors have shapes but no data.

    Args:
        setup: Which model, and how it runs.

    Attributes:
        network: In training or evaluation mode, under the emulation of CUDA.
        image_size: Side of its images in pixels.
        emulation: Knows how much autocast's copies of the weights take.

    Raises:
        InputError: timm does not know the model, or cannot checkpoint it.
        RuntimeError: What else timm raises for an option or a size that a model does not take;
            also AssertionError, ValueError and TypeError.
    """

    network: torch.nn.Module
    image_size: int
    emulation: Emulation

    def __init__(self, setup: MemorySetup) -> None:
        name = setup.model_name
        if not timm.is_model(name):
            raise InputError(f"model.name={name}: unknown to timm{nearest(name, _names())}")
        config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        self.image_size = setup.image_size or (config.input_size[-1] if config else 224)
        options = _options(setup)
        if config is not None and config.fixed_input_size:
            options["img_size"] = self.image_size
        self.network = _build(name, options).train(setup.training)
        if setup.checkpointing == "full" and setup.training:
            _checkpoint(self.network, name)
        self.emulation = emulate_cuda(self.network, half=setup.in_half)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All parameters."""
        return list(self.network.parameters())

    @property
    def buffers(self) -> list[torch.Tensor]:
        """All buffers."""
        return list(self.network.buffers())


def _names() -> list[str]:
    return list(timm.list_models())


def _options(setup: MemorySetup) -> dict[str, Any]:
    options = {"num_classes": setup.num_classes, "drop_path_rate": setup.drop_path_rate}
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if setup.drop_rate:
        given["drop_rate"] = setup.drop_rate
    return given


def _build(name: str, options: dict[str, Any]) -> torch.nn.Module:
    try:
        with torch.device("meta"):
            model: torch.nn.Module = timm.create_model(name, pretrained=False, **options)
    except RuntimeError:  # some, as RegNet on torch 2.11, compute with tensors while they are built
        model = timm.create_model(name, pretrained=False, **options).to("meta")
    return model


def _checkpoint(network: Any, name: str) -> None:
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise InputError(
            f"model.name={name}: it has no activation checkpointing; switch it off"
        ) from error
