"""A timm model without data, that behaves on the meta device as it would on CUDA."""

import functools
from typing import Any

import timm
import torch

from gpuopt.batch_statistics import set_frozen_statistics
from gpuopt.errors import InputError, nearest
from gpuopt.memory.autocast import Emulation, emulate_cuda
from gpuopt.memory.setup import MemorySetup
from gpuopt.recomputation import NONE
from gpuopt.recomputation.apply import apply_checkpointing, count_stages

__all__ = ["MetaModel"]

_USUAL_SIZE = 224


class MetaModel:
    """A model on the meta device, where tensors have shapes but no data.

    Building takes as long as following a step, so the same network serves one instance after
    another; only the newest one may be used.

    Args:
        setup: Which model, and how it runs.

    Attributes:
        network: In training or evaluation mode, under the emulation of CUDA.
        image_size: Side of its images in pixels.
        emulation: Knows how much autocast's copies of the weights take.
        stages: How many of its stages can be recomputed in backward.

    Raises:
        InputError: timm does not know the model, or it cannot be checkpointed like this.
        RuntimeError: What else timm raises for an option or a size that a model does not take;
            also AssertionError, ValueError and TypeError.
    """

    network: torch.nn.Module
    image_size: int
    emulation: Emulation
    stages: int

    def __init__(self, setup: MemorySetup) -> None:
        name = setup.model_name
        if not timm.is_model(name):
            raise InputError(f"model.name={name}: unknown to timm{nearest(name, _names())}")
        config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        self.image_size = setup.image_size or (config.input_size[-1] if config else _USUAL_SIZE)
        has_fixed_size = config is not None and config.fixed_input_size
        self.network, self.emulation = _built(
            name,
            self.image_size if has_fixed_size else None,
            setup.num_classes,
            setup.drop_rate,
            setup.drop_path_rate,
        )
        self.network.train(setup.training)
        set_frozen_statistics(self.network, setup.frozen_statistics)
        self.stages = count_stages(self.network)
        apply_checkpointing(self.network, setup.checkpointing if setup.training else NONE)
        self.emulation.begin(half=setup.in_half)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All parameters."""
        return list(self.network.parameters())

    @property
    def convolves(self) -> bool:
        """Whether more than the first layer is a convolution, as patches of a ViT are."""
        return sum(isinstance(part, torch.nn.Conv2d) for part in self.network.modules()) > 1

    @property
    def buffers(self) -> list[torch.Tensor]:
        """All buffers."""
        return list(self.network.buffers())


def _names() -> list[str]:
    return list(timm.list_models())


@functools.lru_cache(maxsize=1)
def _built(
    name: str,
    image_size: int | None,
    num_classes: int | None,
    drop_rate: float,
    drop_path_rate: float | None,
) -> tuple[torch.nn.Module, Emulation]:
    """Build a network; None and 0 leave an option to the model, which need not have it."""
    options: dict[str, Any] = {
        key: value
        for key, value in (
            ("img_size", image_size),
            ("num_classes", num_classes),
            ("drop_rate", drop_rate or None),
            ("drop_path_rate", drop_path_rate),
        )
        if value is not None
    }
    try:
        with torch.device("meta"):
            network: torch.nn.Module = timm.create_model(name, pretrained=False, **options)
    except RuntimeError:  # some, as RegNet on torch 2.11, compute with tensors while they are built
        network = timm.create_model(name, pretrained=False, **options).to("meta")
    return network, emulate_cuda(network)
