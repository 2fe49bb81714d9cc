"""Views that change values: light, contrast, sharpness and noise.

All take and return float32 [n, 3, s, s] in 0..255 and treat every sample alone. Filters are sums
of shifted images rather than convolutions: cuDNN would choose its algorithm, and so its rounding,
by the size of the batch.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "blur",
    "brightness",
    "contrast",
    "equalize",
    "gamma",
    "motion_blur",
    "noise",
    "sharpen",
]

_NOISE_SEED = 20_240_229
_SHARPEN_SIGMA = 1.0
_LEVELS = 256


def brightness(images: Tensor, factor: float) -> Tensor:
    """Multiply every value."""
    return (images * factor).clamp_(0.0, 255.0)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Multiply the distance of every value to the mean grey of its own image."""
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * factor).add_(mean).clamp_(0.0, 255.0)


def gamma(images: Tensor, exponent: float) -> Tensor:
    """Raise values, taken as 0..1, to a power."""
    return (images / 255.0).clamp_(0.0, 1.0).pow_(exponent).mul_(255.0)


def equalize(images: Tensor, share: float) -> Tensor:
    """Mix in the image whose histogram of greys is flat; hues stay as they are.

    Mixing rather than full equalisation keeps a document, which is mostly white, readable: the
    same purpose as the clip limit of CLAHE.
    """
    samples = len(images)
    levels = _grey(images).round_().long().clamp_(0, _LEVELS - 1).flatten(1)
    # Whole numbers, so that the sums do not depend on the order of parallel additions.
    counts = torch.zeros(samples, _LEVELS, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    up_to = counts.cumsum(1)
    total = up_to[:, -1:]
    darkest = up_to.gather(1, (counts > 0).long().argmax(1, keepdim=True))
    identity = torch.arange(_LEVELS, device=images.device, dtype=torch.float32)
    flat = (up_to - darkest).float() / (total - darkest).clamp(min=1).float() * (_LEVELS - 1)
    shift = torch.where(total > darkest, flat - identity, torch.zeros_like(flat))
    change = shift.gather(1, levels).view(samples, 1, *images.shape[2:])
    return (images + share * change).clamp_(0.0, 255.0)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of this standard deviation in pixels; edges are repeated."""
    radius = math.ceil(3.0 * sigma)
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    return _filter(_filter(images, taps, 3), taps, 2).clamp_(0.0, 255.0)


def motion_blur(images: Tensor, length: float) -> Tensor:
    """Average an odd number of horizontal neighbours; edges are repeated."""
    return _filter(images, [1.0] * int(length), 3).clamp_(0.0, 255.0)


def sharpen(images: Tensor, amount: float) -> Tensor:
    """Add the difference to a slightly blurred image (unsharp masking)."""
    detail = images - blur(images, _SHARPEN_SIGMA)
    return (images + amount * detail).clamp_(0.0, 255.0)


def noise(images: Tensor, sigma: float) -> Tensor:
    """Add one fixed pattern of Gaussian noise, the same for every sample and device."""
    pattern = _noise_pattern(tuple(images.shape[1:]), images.device)
    return (images + sigma * pattern).clamp_(0.0, 255.0)


@functools.lru_cache(maxsize=2)
@torch.inference_mode(False)  # or else a kept tensor could not be used outside of that mode
def _noise_pattern(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw it on the host, so that all devices see the same, and only once."""
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    return torch.randn(shape, generator=generator).to(device)


def _grey(images: Tensor) -> Tensor:
    """Luma [n, 1, s, s] with the weights of ITU-R BT.601."""
    return 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:3]


def _filter(images: Tensor, taps: list[float], dim: int) -> Tensor:
    """Weighted mean of neighbours along one axis, for an odd number of weights."""
    radius = len(taps) // 2
    margin = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
    padded = functional.pad(images, margin, mode="replicate")
    total = math.fsum(taps)
    result = torch.zeros_like(images)
    for start, tap in enumerate(taps):
        result.add_(padded.narrow(dim, start, images.shape[dim]), alpha=tap / total)
    return result
