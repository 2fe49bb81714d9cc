"""Mixup and cutmix: drawn once per global window, applied on the device.

Sources: mixup, Zhang et al. 2018 (arXiv:1710.09412); cutmix, Yun et al. 2019 (arXiv:1905.04899).
"""

from dataclasses import dataclass

import torch

from gpuopt.data.batch import Batch
from gpuopt.data.counter_random import window_generator

__all__ = ["WindowMix", "draw_window_mix", "mix_batch"]


@dataclass(frozen=True, slots=True)
class WindowMix:
    """How all samples of one global window are mixed.

    Attributes:
        shift: The partner of the window's row i is row (i + shift) modulo the window's length.
        ratio: Share of the sample itself in the mixed label.
        box: Cutmix box (x0, y0, x1, y1) in pixels; zeros for mixup.
    """

    shift: int
    ratio: float
    box: tuple[int, int, int, int]


def draw_window_mix(
    *,
    seed: int,
    epoch: int,
    window: int,
    length: int,
    image_size: int,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> WindowMix | None:
    """Draw the mixing of a window from its position alone.

    With both alphas above 0 each window takes mixup or cutmix with equal chance.

    Args:
        seed: Seed of the run.
        epoch: Epoch of the window.
        window: Number of the window in its epoch.
        length: Samples in the window, over all ranks.
        image_size: Side of the images in pixels.
        mixup_alpha: Both parameters of mixup's Beta distribution; 0 switches it off.
        cutmix_alpha: The same for cutmix.

    Returns:
        The mixing, or None when both are off or the window has no second sample.
    """
    if length < 2 or (mixup_alpha <= 0 and cutmix_alpha <= 0):
        return None
    generator = window_generator(seed, epoch, window)
    shift = int(generator.integers(1, length))
    takes_cutmix = mixup_alpha <= 0 or (cutmix_alpha > 0 and generator.random() < 0.5)
    alpha = cutmix_alpha if takes_cutmix else mixup_alpha
    ratio = float(generator.beta(alpha, alpha))
    if not takes_cutmix:
        return WindowMix(shift, ratio, (0, 0, 0, 0))
    side = image_size * (1.0 - ratio) ** 0.5
    centre_x, centre_y = (float(value) * image_size for value in generator.random(2))
    x0, x1 = _edges(centre_x, side, image_size)
    y0, y1 = _edges(centre_y, side, image_size)
    # The label follows the area that is really covered: a box is cut off at the border.
    covered_ratio = (x1 - x0) * (y1 - y0) / image_size**2
    return WindowMix(
        shift, 1.0 - covered_ratio, (x0, y0, x1, y1) if covered_ratio else (0, 0, 0, 0)
    )


def mix_batch(batch: Batch) -> Batch:
    """Mix each image with its partner.

    Args:
        batch: As loaded, on any device.

    Returns:
        The batch with float32 images in 0..255 and without partner images; a batch without
        partners comes back as it is.
    """
    if len(batch.partner_images) == 0:
        return batch
    side = batch.images.shape[-1]
    x0, y0, x1, y1 = (edge.view(-1, 1, 1, 1) for edge in batch.boxes.unbind(1))
    pixels = torch.arange(side, device=batch.images.device)
    columns, rows = pixels.view(1, 1, 1, -1), pixels.view(1, 1, -1, 1)
    inside = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
    share = torch.where(x1 > x0, 1.0 - inside.float(), batch.mix_ratios.view(-1, 1, 1, 1))
    mixed = share * batch.images + (1.0 - share) * batch.partner_images
    return batch._replace(images=mixed, partner_images=batch.partner_images[:0])


def _edges(centre: float, side: float, limit: int) -> tuple[int, int]:
    low, high = round(centre - side / 2), round(centre + side / 2)
    return min(max(low, 0), limit), min(max(high, 0), limit)
