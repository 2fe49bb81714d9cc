"""A timm network with its normalisation inside: uint8 images in, logits out."""

from typing import Literal

import torch
from torch import Tensor, nn

from gpuopt.batch_statistics import has_frozen_statistics, set_frozen_statistics
from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.model.backbone import create_backbone
from gpuopt.recomputation.apply import apply_checkpointing

__all__ = ["ImageNetwork", "normalise"]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (images - mean) / std.

    Args:
        images: [n, 3, h, w], uint8 or float.
        mean: [1, 3, 1, 1], in the unit of the images.
        std: [1, 3, 1, 1], in the unit of the images.

    Returns:
        float32 [n, 3, h, w].
    """
    # The division is in place: a second batch of memory would have to be found and filled.
    return images.to(torch.float32).sub(mean).div_(std)


class ImageNetwork(nn.Module):
    """What predicts, and what `Classifier` trains; it needs no Lightning, which takes seconds.

    Args:
        name: timm model name.
        num_classes: Number of classes.
        pretrained: Start from pretrained weights (see `create_backbone`).
        random_if_offline: Accept random weights when the hub cannot be reached.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth; None keeps the model's default.
        checkpointing: See `Classifier`.
        channels_last: See `Classifier`.
        batch_norm: See `Classifier`.

    Attributes:
        weights_source: Where the weights came from.
        backbone: Maps normalised images to logits.
        uses_channels_last: What `channels_last` came to.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        pretrained: bool = False,
        random_if_offline: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        checkpointing: str = "none",
        channels_last: str | bool = "auto",
        batch_norm: Literal["train", "frozen"] = "train",
    ) -> None:
        super().__init__()
        backbone = create_backbone(
            name,
            num_classes,
            pretrained=pretrained,
            random_if_offline=random_if_offline,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.name = name
        self.num_classes = num_classes
        self.weights_source = backbone.weights
        self.backbone = backbone.network
        self.register_buffer("mean", _per_channel(backbone.mean), persistent=False)
        self.register_buffer("std", _per_channel(backbone.std), persistent=False)
        self.uses_channels_last = _wants_channels_last(self.backbone, channels_last)
        if self.uses_channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        if batch_norm == "frozen" and pretrained and backbone.weights == "random":
            raise InputError(f"model.batch_norm=frozen: {name} has random weights, offline")
        _set_batch_norm(self.backbone, name, batch_norm)
        apply_checkpointing(self.backbone, checkpointing)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: [n, 3, h, w], uint8 or float in 0..255.

        Returns:
            Logits [n, classes].
        """
        normalised = normalise(images, self.mean, self.std)
        if self.uses_channels_last:
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.backbone(normalised)
        return logits

    def channels_last_choice(self) -> Choice:
        """Say what `channels_last="auto"` came to, and why."""
        reason = "nets with BatchNorm gain by it, others do not: timm's measurements"
        return Choice("model.channels_last", self.uses_channels_last, "table", reason)


def _set_batch_norm(network: nn.Module, name: str, mode: str) -> None:
    set_frozen_statistics(network, mode == "frozen")
    if mode == "frozen" and not any(has_frozen_statistics(part) for part in network.modules()):
        raise InputError(f"model.batch_norm=frozen: {name} has no BatchNorm; leave it out")


def _per_channel(values: tuple[float, ...]) -> Tensor:
    """Scale statistics of 0..1 pixels to 0..255, shaped to broadcast over [n, 3, h, w]."""
    return torch.tensor(values).mul(255).view(1, -1, 1, 1)


def _wants_channels_last(network: nn.Module, choice: str | bool) -> bool:
    if choice == "auto":
        # Measured by timm on an RTX 3090: ResNet 1.47 times, EfficientNet 1.2 times, ConvNeXt and
        # ViT, which have no BatchNorm, 1.00.
        return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    if choice in (True, False):
        return bool(choice)
    raise InputError(f"model.channels_last={choice} is not auto, true or false")
