"""Predict how long a training step or a forward pass takes, before the first one has run.

Kernels run one after another, so the time is the sum of arithmetic and memory traffic at the
device's peak rates, over the share of that roof which real training reaches. Traffic is taken as
a multiple of the bytes that are kept for backward: counting every operation of ConvNeXt-Base,
EfficientNet-B0 and B3 and ResNet-50 gave 5.9, 6.3, 6.4 and 8.3 times as much. timm's published
training speeds on an RTX 3090 lie at 0.51 to 0.79 of the roof, with 0.62 in the middle.

A forward pass alone reaches more of it: 30 of timm's published inference speeds, of eight models on
an RTX 3090 and an RTX 4090 with autocast in channels_last, took 0.73 to 1.30 times what is
predicted with the constants below, which were fitted to them. Importing this imports no torch.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from gpuopt.hardware import Gpu
from gpuopt.measure.interval import Interval
from gpuopt.storage import AnswerCache, default_cache_dir

__all__ = [
    "Rates",
    "cpu_rates",
    "dense_flops_per_s",
    "forward_flops",
    "gpu_rates",
    "kept_forward_flops",
    "predict_forward_s",
    "predict_sample_interval_s",
    "predict_sample_s",
]

_TRAFFIC_PER_SAVED_BYTE = 6.4
_REACHED_RATIO = 0.62
_BACKWARD_FACTOR = 3  # forward, gradient of inputs, gradient of weights
_FORWARD_TRAFFIC_PER_SAVED_BYTE = 2.1
_FORWARD_REACHED_RATIO = 0.93
_FORWARD_SPREAD = (0.73, 1.30)
_LEAST_REACHED, _MOST_REACHED = 0.51, 0.79


@dataclass(frozen=True)
class Rates:
    """What a device can do at its peak.

    Attributes:
        flops_per_s: Floating-point operations per second in the run's precision.
        bytes_per_s: Memory bandwidth.
    """

    flops_per_s: float
    bytes_per_s: float


def predict_sample_s(forward_flops: float, saved_bytes: float, rates: Rates) -> float:
    """Predict the training time per sample in seconds, loader left out.

    Args:
        forward_flops: Operations of one sample's forward pass.
        saved_bytes: Bytes kept for backward per sample.
        rates: Of the device.
    """
    compute_s = _BACKWARD_FACTOR * forward_flops / rates.flops_per_s
    traffic_s = _TRAFFIC_PER_SAVED_BYTE * saved_bytes / rates.bytes_per_s
    return (compute_s + traffic_s) / _REACHED_RATIO


def predict_sample_interval_s(forward_flops: float, saved_bytes: float, rates: Rates) -> Interval:
    """Predict the same with the range in which published speeds lie; arguments as above."""
    value_s = predict_sample_s(forward_flops, saved_bytes, rates)
    low, high = _REACHED_RATIO / _MOST_REACHED, _REACHED_RATIO / _LEAST_REACHED
    return Interval(value_s, low * value_s, high * value_s)


def predict_forward_s(forward_flops: float, saved_bytes: float, rates: Rates) -> Interval:
    """Predict the time of a forward pass per sample of a large batch in seconds.

    Args:
        forward_flops: Operations of one sample's forward pass.
        saved_bytes: Bytes that training would keep for backward per sample.
        rates: Of the device.

    Returns:
        With the range in which published speeds lie around such a prediction.
    """
    compute_s = forward_flops / rates.flops_per_s
    traffic_s = _FORWARD_TRAFFIC_PER_SAVED_BYTE * saved_bytes / rates.bytes_per_s
    value_s = (compute_s + traffic_s) / _FORWARD_REACHED_RATIO
    low, high = _FORWARD_SPREAD
    return Interval(value_s, low * value_s, high * value_s)


@functools.cache  # the folds of a run have one model
def forward_flops(model_name: str, image_size: int) -> int:
    """Count the operations of one forward pass of a timm model, on the meta device.

    Only the forward pass is counted: PyTorch's counter gives 9 to 44 times as much for the
    backward pass of depthwise convolutions as they do.
    """
    import timm  # takes seconds, as torch does
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = timm.create_model(model_name, pretrained=False).eval()
        images = torch.empty(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(images)
    return int(counter.get_total_flops())


def kept_forward_flops(
    model_name: str, image_size: int, cache_dir: str | Path | None = None
) -> int:
    """Count the same once for all: what is known needs no torch.

    Args:
        model_name: timm model name.
        image_size: Side in pixels.
        cache_dir: Folder of all caches; None means the user's cache folder.
    """
    cache = AnswerCache(Path(cache_dir or default_cache_dir()).expanduser() / "flops")
    question = {
        "kind": "operations of a forward pass",
        "model": model_name,
        "image_size": image_size,
        "timm": version("timm"),
        "torch": version("torch"),
    }
    answer = cache.read(question)
    if answer is not None:
        return int(answer)
    count = forward_flops(model_name, image_size)
    cache.write(question, str(count).encode())
    return count


def dense_flops_per_s(gpu: Gpu, precision: str) -> float | None:
    """Take a card's peak of operations from its preset; None where it is unknown.

    Args:
        gpu: The card.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.

    Returns:
        Without sparsity, on the tensor cores with accumulation in fp32 where there are some.
    """
    tensor = gpu.tensor_tflops if precision != "fp32" else None
    tflops = tensor or gpu.fp32_tflops
    if precision == "tf32" and tensor is not None:
        tflops = tensor / 2  # half the rate of the 16-bit formats on every card that has it
    return None if tflops is None else tflops * 1e12


def gpu_rates(gpu: Gpu, precision: str) -> Rates | None:
    """Take a card's peak rates from its preset; None where they are unknown."""
    flops_per_s = dense_flops_per_s(gpu, precision)
    if flops_per_s is None or gpu.memory_bandwidth_gb_per_s is None:
        return None
    return Rates(flops_per_s, gpu.memory_bandwidth_gb_per_s * 1e9)


@functools.cache  # the folds of a run share their machine
def cpu_rates() -> Rates:
    """Measure the processors once: a matrix product and a copy, in about a tenth of a second."""
    import torch  # takes seconds

    side, size = 768, 32 * 2**20
    left, right = torch.ones(side, side), torch.ones(side, side)
    source, target = torch.empty(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    product_s = _best_s(lambda: torch.mm(left, right))
    copy_s = _best_s(lambda: target.copy_(source))
    return Rates(2 * side**3 / product_s, 2 * size / copy_s)


def _best_s(work: Callable[[], object], repeats: int = 5) -> float:
    """Time a call; the best of a few, since other programs only make it slower."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
