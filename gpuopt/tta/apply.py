"""Make a view of a batch of images on the device where they are."""

from collections.abc import Callable, Mapping

from torch import Tensor

from gpuopt.tta import geometry, photometry
from gpuopt.tta.views import View

__all__ = ["FUNCTIONS", "apply_view"]

FUNCTIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "rotate": geometry.rotate,
    "hflip": geometry.hflip,
    "vflip": geometry.vflip,
    "transpose": geometry.transpose,
    "scale": geometry.scale,
    "brightness": photometry.brightness,
    "contrast": photometry.contrast,
    "gamma": photometry.gamma,
    "equalize": photometry.equalize,
    "blur": photometry.blur,
    "motion_blur": photometry.motion_blur,
    "sharpen": photometry.sharpen,
    "noise": photometry.noise,
}


def apply_view(view: View, images: Tensor) -> Tensor:
    """Apply a view's operations in order.

    Args:
        view: What to do.
        images: uint8 or float32 [n, 3, s, s] in 0..255, left unchanged.

    Returns:
        float32 [n, 3, s, s] in 0..255 on the same device. It may share memory with float images.
    """
    seen = images.float()
    for name, value in view.operations:
        seen = FUNCTIONS[name](seen, value)
    return seen
