"""Augmentation on the device, as a pure function of numbers that the loader sends along.

Nothing here draws random numbers: the same uniforms give the same pixels in any batch. All
geometry is one `grid_sample`, or moves of whole pixels where no more is asked for; noise comes
from a fixed bank read at an offset per sample.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gpuopt.errors import InputError

__all__ = ["AUGMENTATION_UNIFORMS", "Augmentation"]

AUGMENTATION_UNIFORMS = 12
"""Numbers per sample that `Augmentation` uses."""

_NOISE_SEED = 20240229
_NOISE_OFFSETS = 1 << 16
_WHITE = 255.0


class Augmentation:
    """Turns, flips, skews, scales, shifts and disturbs images; fresh borders are white.

    Args:
        rotation90: Turn by 0, 90, 180 or 270 degrees with equal chance.
        flip: Mirror every second image.
        rotation_degrees: Standard deviation of a further rotation.
        scale_ratio: Shrink by a factor drawn evenly from 1 to 1 + scale_ratio.
        shift_ratio: Standard deviation of the shift in each direction / half the image's side.
        gamma: Standard deviation of the logarithm of the exponent of brightness.
        brightness: Factor drawn evenly from 1 - 1.5 brightness to 1 + 0.5 brightness; darker more
            than brighter, because white paper clips.
        noise: Greatest standard deviation of the pixel noise, in grey levels of 255.
        blur: Greatest share of a 3x3 mean blended into the image, 0 to 1.

    Raises:
        InputError: For a negative or absurd amount.
    """

    def __init__(
        self,
        rotation90: bool = True,
        flip: bool = True,
        rotation_degrees: float = 7.0,
        scale_ratio: float = 0.3,
        shift_ratio: float = 0.04,
        gamma: float = 0.4,
        brightness: float = 0.2,
        noise: float = 25.0,
        blur: float = 0.0,
    ) -> None:
        limits = {
            "rotation_degrees": (rotation_degrees, 180.0),
            "scale_ratio": (scale_ratio, 10.0),
            "shift_ratio": (shift_ratio, 1.0),
            "gamma": (gamma, 3.0),
            "brightness": (brightness, 0.6),
            "noise": (noise, 255.0),
            "blur": (blur, 1.0),
        }
        for name, (value, limit) in limits.items():
            if not 0 <= value <= limit:
                raise InputError(f"data.augmentation.{name}={value} is not between 0 and {limit:g}")
        self.rotation90 = rotation90
        self.flip = flip
        self.rotation_degrees = rotation_degrees
        self.scale_ratio = scale_ratio
        self.shift_ratio = shift_ratio
        self.gamma = gamma
        self.brightness = brightness
        self.noise = noise
        self.blur = blur
        self._noise_banks: dict[tuple[torch.device, int], Tensor] = {}

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images: [n, 3, s, s], uint8 or float in 0..255.
            uniforms: float32 [n, AUGMENTATION_UNIFORMS] in [0, 1).

        Returns:
            float32 [n, 3, s, s] in 0..255. A sample's result does not depend on the others.
        """
        with torch.no_grad():
            pixels = self._geometry(images, uniforms)  # a tensor of its own, changed in place below
            pixels = self._blurred(pixels, uniforms[:, 10])
            pixels = self._exposed(pixels, uniforms[:, 6], uniforms[:, 7])
            pixels = self._noised(pixels, uniforms[:, 8], uniforms[:, 9])
            return pixels.clamp_(0.0, _WHITE)

    def _geometry(self, images: Tensor, uniforms: Tensor) -> Tensor:
        if self.rotation_degrees == self.scale_ratio == self.shift_ratio == 0:
            return self._moved_exactly(images, uniforms[:, 0], uniforms[:, 1])
        turn, mirror, tilt, zoom, across, down = uniforms[:, :6].unbind(1)
        quarters = (turn * 4).floor() if self.rotation90 else torch.zeros_like(turn)
        # sin and cos of a quarter turn are exact in this form, so that turns lose no pixel.
        sine_of_turn = (quarters == 1).float() - (quarters == 3).float()
        cosine_of_turn = (quarters == 0).float() - (quarters == 2).float()
        angle = _normal(tilt) * math.radians(self.rotation_degrees)
        sine, cosine = angle.sin(), angle.cos()
        scale = 1.0 + zoom * self.scale_ratio
        across_x = (cosine * cosine_of_turn - sine * sine_of_turn) * scale
        down_x = (sine * cosine_of_turn + cosine * sine_of_turn) * scale
        sign = 1.0 - 2.0 * (mirror < 0.5).float() if self.flip else torch.ones_like(mirror)
        grid = _sampling_grid(
            images.shape[-1],
            torch.stack([across_x * sign, -down_x, _normal(across) * self.shift_ratio], 1),
            torch.stack([down_x * sign, across_x, _normal(down) * self.shift_ratio], 1),
        )
        # grid_sample fills with 0; sampling the difference to white makes that white.
        difference = images - _WHITE  # float32, also from uint8
        return F.grid_sample(difference, grid, align_corners=False).add_(_WHITE)

    def _moved_exactly(self, images: Tensor, turn: Tensor, mirror: Tensor) -> Tensor:
        pixels = images
        if self.rotation90:
            quarters = _per_image((turn * 4).floor())
            half = _chosen(quarters >= 2, pixels.rot90(2, (2, 3)), pixels)
            pixels = _chosen(quarters % 2 == 1, half.rot90(1, (2, 3)), half)
        if self.flip:
            pixels = _chosen(_per_image(mirror < 0.5), pixels.flip(3), pixels)
        return pixels.to(torch.float32, copy=True)

    def _blurred(self, pixels: Tensor, amounts: Tensor) -> Tensor:
        if self.blur == 0:
            return pixels
        mean = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return pixels.lerp_(mean, _per_image(amounts * self.blur))

    def _exposed(self, pixels: Tensor, exponents: Tensor, factors: Tensor) -> Tensor:
        if self.gamma > 0:
            exponent = (_normal(exponents) * self.gamma).exp()
            pixels.div_(_WHITE).clamp_(1e-3, 1.0).pow_(_per_image(exponent)).mul_(_WHITE)
        if self.brightness > 0:
            pixels.mul_(_per_image(1.0 + self.brightness * (2.0 * factors - 1.5)))
        return pixels

    def _noised(self, pixels: Tensor, amounts: Tensor, places: Tensor) -> Tensor:
        if self.noise == 0:
            return pixels
        length = pixels.shape[1:].numel()
        offsets = (places * _NOISE_OFFSETS).long()
        noise = self._noise_bank(pixels.device, length).unfold(0, length, 1)[offsets]
        return pixels.addcmul_(noise.view(pixels.shape), _per_image(amounts * self.noise))

    def _noise_bank(self, device: torch.device, length: int) -> Tensor:
        """Return the fixed noise; made on the CPU, so that all devices have the same."""
        key = (device, length)
        if key not in self._noise_banks:
            generator = torch.Generator().manual_seed(_NOISE_SEED)
            bank = torch.randn(length + _NOISE_OFFSETS, generator=generator)
            self._noise_banks[key] = bank.to(device)
        return self._noise_banks[key]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_noise_banks": {}}


def _sampling_grid(side: int, to_x: Tensor, to_y: Tensor) -> Tensor:
    """Build a [n, side, side, 2] grid from two rows [n, 3] of affine maps.

    Written out instead of `affine_grid`, whose matrix product may round differently for another
    batch size.
    """
    steps = (torch.arange(side, device=to_x.device, dtype=torch.float32) * 2 + 1) / side - 1
    columns, rows = steps.view(1, 1, -1), steps.view(1, -1, 1)

    def mapped(coefficients: Tensor) -> Tensor:
        by_column, by_row, constant = (c.view(-1, 1, 1) for c in coefficients.unbind(1))
        return by_column * columns + by_row * rows + constant

    return torch.stack([mapped(to_x), mapped(to_y)], dim=3)


def _normal(uniforms: Tensor) -> Tensor:
    """Turn numbers in [0, 1) into normal ones, cut off at four standard deviations."""
    normal: Tensor = torch.special.ndtri(uniforms.clamp(3.2e-5, 1 - 3.2e-5))
    return normal


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _chosen(condition: Tensor, changed: Tensor, kept: Tensor) -> Tensor:
    if not kept.is_cpu or not len(kept):
        return torch.where(condition, changed, kept)
    # On a CPU `where` is not vectorised for bytes; copying whole images is.
    choices = zip(condition.flatten().tolist(), changed.unbind(), kept.unbind(), strict=True)
    return torch.stack([new if chosen else old for chosen, new, old in choices])
