"""An engine in the place of a model: float images in, any number at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from gpuopt.engine.protocol import Engine

__all__ = ["forward_of"]


def forward_of(engine: Engine) -> Callable[[Tensor], Tensor]:
    """Return a function from images to logits, as test-time augmentation calls it.

    Engines take uint8. Turns and mirrors of uint8 images are whole numbers and stay exact; views
    that compute pixels are rounded, which moves a pixel by at most half a level of 255.

    Args:
        engine: Any.

    Returns:
        From float32 images [n, 3, s, s] in 0..255 to float32 logits [n, classes].
    """

    def forward(images: Tensor) -> Tensor:
        # Precision lies in the engine; autocast around it would compile into torch's engines.
        with torch.autocast(engine.device.type, enabled=False):
            pixels = images if images.dtype == torch.uint8 else _rounded(images)
            parts = [engine(part) for part in torch.split(pixels, engine.max_batch_size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return forward


def _rounded(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8).contiguous()
