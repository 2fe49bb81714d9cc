"""Views that move pixels: turns, mirrors and sizes, with white where nothing was.

All take and return float32 [n, 3, s, s] in 0..255 and treat every sample alone.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["hflip", "rotate", "scale", "transpose", "vflip"]


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turn counter-clockwise; quarter turns are exact, other angles resampled once."""
    quarter_turns, rest = divmod(degrees, 90.0)
    if rest == 0.0:
        return torch.rot90(images, int(quarter_turns) % 4, (2, 3))
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    return _resample(images, (cosine, -sine), (sine, cosine))


def scale(images: Tensor, factor: float) -> Tensor:
    """Resize the content about the centre; what leaves the frame is cut, the rest is white."""
    return _resample(images, (1.0 / factor, 0.0), (0.0, 1.0 / factor))


def hflip(images: Tensor, _: float = 1.0) -> Tensor:
    """Mirror left to right."""
    return images.flip(3)


def vflip(images: Tensor, _: float = 1.0) -> Tensor:
    """Mirror top to bottom."""
    return images.flip(2)


def transpose(images: Tensor, _: float = 1.0) -> Tensor:
    """Mirror at the main diagonal."""
    return images.transpose(2, 3)


def _resample(images: Tensor, row_x: tuple[float, float], row_y: tuple[float, float]) -> Tensor:
    """Read every output pixel (x, y) at (row_x · (x, y), row_y · (x, y)), bilinear.

    The grid is made from elementwise products: `affine_grid` multiplies matrices, which TF32
    would round to a fifth of a pixel.
    """
    samples, _, height, width = images.shape
    y = _pixel_centres(height, images)[:, None]
    x = _pixel_centres(width, images)[None, :]
    grid = torch.stack((row_x[0] * x + row_x[1] * y, row_y[0] * x + row_y[1] * y), dim=-1)
    ink = functional.grid_sample(
        255.0 - images,  # outside, grid_sample reads 0, which is white in the inverted image
        grid.expand(samples, -1, -1, -1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return 255.0 - ink


def _pixel_centres(size: int, like: Tensor) -> Tensor:
    positions = torch.arange(size, device=like.device, dtype=torch.float32)
    return (2.0 * positions + 1.0) / size - 1.0
