"""What to recommend for a card, from its measured or listed properties alone.

The presets in `conf/gpu` hold the same recommendations (a test compares them), so a card that
no preset knows gets what it would have got with one.
"""

import math

__all__ = [
    "MEASURED_HEADROOM_RATIO",
    "has_tensor_cores",
    "recommended_headroom_ratio",
    "recommended_image_size",
    "recommended_num_workers",
    "recommended_precision",
]

# The largest Turing chip without tensor cores (TU116, GTX 16xx) has 24 SMs, the smallest one
# with them (TU106, RTX 2060) has 30. The count also covers T400 to T2000, unlike any name.
_TU116_SM_COUNT = 24
_FIRST_BF16 = (8, 0)
_FIRST_TENSOR_CORES = (7, 0)
_TURING = (7, 5)

# (least MiB, side): 12 GB cards report 12,227 to 12,288 MiB, a T4 or V100 15,100 to 16,384.
_SIDE_BY_MEMORY_MIB = ((15_000, 384), (12_000, 320), (10_000, 288), (7_900, 256))
_SMALLEST_SIDE = 224
_MOST_HEADROOM = 0.9  # as the dial allows

# Share to keep free of what was measured: for steps that differ a little from those of the probes.
MEASURED_HEADROOM_RATIO = 0.03


def has_tensor_cores(capability: tuple[int, int], sm_count: int) -> bool:
    """Tell whether a card has tensor cores; Turing is the one generation with both kinds."""
    if capability == _TURING:
        return sm_count > _TU116_SM_COUNT
    return capability >= _FIRST_TENSOR_CORES


def recommended_precision(capability: tuple[int, int], tensor_cores: bool) -> str:
    """Pick bf16 where it is native, fp16 where tensor cores need it, and fp32 elsewhere.

    Turing cards without tensor cores give NaN in fp16 convolutions (pytorch#77955).
    """
    if capability >= _FIRST_BF16:
        return "bf16"
    return "fp16" if tensor_cores else "fp32"


def recommended_num_workers(tflops: float | None) -> int:
    """Pick loader processes: one per 8 TFLOP/s of the training rate, from 4 to 16.

    A small network at 10 % of the peak takes some 4,000 images per second from 100 TFLOP/s,
    which is what about 12 processes decode; beyond 16 the main process becomes the limit.
    """
    if tflops is None:
        return 4
    return min(16, max(4, math.ceil(tflops / 8)))


def recommended_image_size(memory_mib: int) -> int:
    """Pick the side in pixels at which ConvNeXt-Base trains some 15 samples or more at once."""
    for least_mib, side in _SIDE_BY_MEMORY_MIB:
        if memory_mib >= least_mib:
            return side
    return _SMALLEST_SIDE


def recommended_headroom_ratio(memory_mib: int) -> float:
    """Pick the share to keep free of a prediction: 8 %, or 5 % and 256 MiB where that is more.

    It is for what no prediction sees. cuDNN's workspaces do not shrink with the card, so a small
    card needs the larger share.
    """
    return min(_MOST_HEADROOM, max(0.08, math.ceil(100 * (0.05 + 256 / memory_mib)) / 100))
