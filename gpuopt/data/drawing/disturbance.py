"""What happens to a test image: turned, flipped, skewed, blurred, badly exposed, noisy."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from gpuopt.data.drawing.canvas import Colour
from gpuopt.data.drawing.dice import Dice

__all__ = ["CLEAN", "Disturbance", "disturb", "draw_disturbance", "exposure_curve"]

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


class Disturbance(NamedTuple):
    """How one image is disturbed, in the order in which it happens; 0 means not at all.

    Attributes:
        turn: Quarter turns anticlockwise, in degrees: 0, 90, 180 or 270.
        flip: 1 when mirrored left to right.
        skew: Further rotation, in degrees anticlockwise.
        blur: Radius of a Gaussian, in thousandths of the longest side.
        exposure: Stops too bright (above 0) or too dark (below 0).
        noise: Standard deviation of grey noise, in levels of 256.
    """

    turn: int = 0
    flip: int = 0
    skew: float = 0.0
    blur: float = 0.0
    exposure: float = 0.0
    noise: float = 0.0


CLEAN = Disturbance()


def draw_disturbance(dice: Dice) -> Disturbance:
    """Draw how an image is disturbed; one in fourteen is left clean."""
    if dice.chance(0.07):
        return CLEAN
    exposure = dice.uniform(0.5, 1.5) if dice.chance(0.5) else dice.uniform(-1.2, -0.4)
    return Disturbance(
        turn=dice.weighted({0: 0.34, 90: 0.22, 180: 0.22, 270: 0.22}),
        flip=int(dice.chance(0.18)),
        skew=round(min(20.0, max(-20.0, dice.normal(5))), 1) + 0.0 if dice.chance(0.75) else 0.0,
        blur=round(dice.uniform(1.2, 3.5), 2) if dice.chance(0.4) else 0.0,
        exposure=round(exposure, 2) if dice.chance(0.4) else 0.0,
        noise=round(dice.uniform(6, 28), 1) if dice.chance(0.5) else 0.0,
    )


def exposure_curve(stops: float) -> list[int]:
    """Return the new level of each of 256 levels.

    Too bright, highlights run together and ink fades; too dark, all is scaled towards black.
    """
    gain = 2.0**stops
    if stops > 0:
        return [round(255 * (1 - (1 - level / 255) ** gain)) for level in range(256)]
    return [round(level * gain) for level in range(256)]


def disturb(image: Image.Image, how: Disturbance, dice: Dice, ground: Colour) -> Image.Image:
    """Apply a disturbance to a clean RGB image.

    Args:
        image: The clean image; its longest side stays as it is.
        how: What to do.
        dice: Source of the noise.
        ground: Colour of the corners that a skew uncovers.
    """
    if how.turn:
        image = image.transpose(_TURNS[how.turn])
    if how.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if how.skew:
        image = _skewed(image, how.skew, ground)
    if how.blur:
        image = image.filter(ImageFilter.GaussianBlur(how.blur * max(image.size) / 1000))
    if how.exposure:
        image = image.point(exposure_curve(how.exposure) * 3)
    if how.noise:
        levels = np.asarray(image, dtype=np.float32)
        levels = levels + np.float32(how.noise) * dice.noise(image.height, image.width)
        image = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    return image


def _skewed(image: Image.Image, degrees: float, ground: Colour) -> Image.Image:
    """Rotate about the middle, shrunk so that the corners lose little, in a frame of one size."""
    angle, (width, height) = math.radians(degrees), image.size
    shrink = 1 + 0.5 * abs(math.sin(angle))
    cosine, sine = math.cos(angle) * shrink, math.sin(angle) * shrink
    x, y = width / 2, height / 2
    matrix = (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BILINEAR,
        fillcolor=ground,
    )
