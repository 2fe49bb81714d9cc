"""How fast a device computes and moves data, and whether it computes right, in a few seconds.

Durations come from CUDA events, or from the clock on a CPU; each is the median of several stretches
after a warm-up.
"""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["DeviceRates", "HalfCheck", "measure_device_rates"]

_STRETCHES = 3
_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_SEED = 0


@dataclass(frozen=True)
class HalfCheck:
    """Whether a half-precision format computes what fp32 does.

    Attributes:
        is_finite: Whether a convolution and a matrix product gave numbers alone.
        difference_ratio: Root mean square of their differences from fp32 / that of fp32.
    """

    is_finite: bool
    difference_ratio: float


@dataclass(frozen=True)
class DeviceRates:
    """What was measured.

    Attributes:
        matmul_tflops: 1e12 operations a second of a square matrix product, by precision.
        convolution_tflops: The same of a 3x3 convolution.
        memory_gb_per_s: Read and written by a copy inside of the device, 1e9 bytes a second.
        pinned_gb_per_s: From page-locked host memory to the device; None on a CPU.
        pageable_gb_per_s: From ordinary host memory; None on a CPU.
        checks: By half-precision format.
    """

    matmul_tflops: dict[str, float]
    convolution_tflops: dict[str, float]
    memory_gb_per_s: float
    pinned_gb_per_s: float | None
    pageable_gb_per_s: float | None
    checks: dict[str, HalfCheck]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Sizes:
    """How large the pieces of work are."""

    side: int
    images: int
    channels: int
    pixels: int
    copied_bytes: int
    stretch_s: float


_ON_CUDA = _Sizes(8192, 64, 256, 56, 512 * 2**20, 0.1)
_ON_CPU = _Sizes(512, 2, 64, 28, 32 * 2**20, 0.02)


def measure_device_rates(
    device: torch.device,
    precisions: list[str],
    *,
    work_ratio: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> DeviceRates:
    """Measure a device.

    Args:
        device: `cuda` or `cpu`.
        precisions: Of `fp32`, `tf32`, `bf16` and `fp16`, those that are to be timed.
        work_ratio: Size of matrices, images and copies against the usual ones, at most 1.
        clock: Seconds; read on a CPU.
    """
    usual = _ON_CUDA if device.type == "cuda" else _ON_CPU
    sizes = _Sizes(
        max(64, int(usual.side * work_ratio) // 64 * 64),
        usual.images,
        usual.channels,
        max(8, int(usual.pixels * work_ratio)),
        max(2**16, int(usual.copied_bytes * work_ratio)),
        usual.stretch_s * work_ratio,
    )
    timer = _Timer(device, sizes.stretch_s, clock)
    halves = [name for name in precisions if name in ("bf16", "fp16")]
    # Events and pinned memory belong to the current device.
    is_cuda = device.type == "cuda"
    with torch.no_grad(), torch.cuda.device(device) if is_cuda else contextlib.nullcontext():
        pinned, pageable = _to_device(timer, sizes)
        return DeviceRates(
            {name: _matmul_tflops(timer, sizes, name) for name in precisions},
            {name: _convolution_tflops(timer, sizes, name) for name in precisions},
            _copy_gb_per_s(timer, sizes),
            pinned,
            pageable,
            {name: _check(device, _DTYPES[name]) for name in halves},
        )


class _Timer:
    """Times calls on a device."""

    def __init__(self, device: torch.device, stretch_s: float, clock: Callable[[], float]) -> None:
        self.device = device
        self._stretch_s = stretch_s
        self._clock = clock

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of one call, from stretches of many."""
        self._stretch(work, 2)
        one_s = max(self._stretch(work, 1), 1e-9)
        repeats = max(1, round(self._stretch_s / one_s))
        times = [self._stretch(work, repeats) / repeats for _ in range(_STRETCHES)]
        return max(statistics.median(times), 1e-12)

    def _stretch(self, work: Callable[[], object], repeats: int) -> float:
        if self.device.type != "cuda":
            began = self._clock()
            for _ in range(repeats):
                work()
            return self._clock() - began
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(start.elapsed_time(end)) / 1000


@contextlib.contextmanager
def _arithmetic(precision: str) -> Iterator[None]:
    """Let matrix products of float32 use TF32, or not; convolutions likewise."""
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


def _matmul_tflops(timer: _Timer, sizes: _Sizes, precision: str) -> float:
    shape, dtype = (sizes.side, sizes.side), _DTYPES[precision]
    left = torch.randn(shape, device=timer.device).to(dtype)
    right = torch.randn(shape, device=timer.device).to(dtype)
    with _arithmetic(precision):
        seconds = timer.seconds(lambda: torch.mm(left, right))
    return 2 * sizes.side**3 / seconds / 1e12


def _convolution_tflops(timer: _Timer, sizes: _Sizes, precision: str) -> float:
    dtype = _DTYPES[precision]
    shape = (sizes.images, sizes.channels, sizes.pixels, sizes.pixels)
    images = torch.randn(shape, device=timer.device).to(dtype)
    weights = torch.randn(sizes.channels, sizes.channels, 3, 3, device=timer.device).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    weights = weights.contiguous(memory_format=torch.channels_last)
    with _arithmetic(precision):
        seconds = timer.seconds(lambda: functional.conv2d(images, weights, padding=1))
    operations = 2 * sizes.images * sizes.pixels**2 * sizes.channels**2 * 9
    return operations / seconds / 1e12


def _copy_gb_per_s(timer: _Timer, sizes: _Sizes) -> float:
    source = torch.empty(sizes.copied_bytes, dtype=torch.uint8, device=timer.device)
    target = torch.empty_like(source)
    seconds = timer.seconds(lambda: target.copy_(source))
    return 2 * sizes.copied_bytes / seconds / 1e9  # read and written


def _to_device(timer: _Timer, sizes: _Sizes) -> tuple[float | None, float | None]:
    """Return GB/s from pinned and from pageable memory; None where nothing has to be moved."""
    if timer.device.type != "cuda":
        return None, None
    target = torch.empty(sizes.copied_bytes, dtype=torch.uint8, device=timer.device)
    found = []
    for pinned in (True, False):
        source = torch.empty(sizes.copied_bytes, dtype=torch.uint8, pin_memory=pinned)
        source.zero_()  # else its pages do not exist yet
        seconds = timer.seconds(functools.partial(target.copy_, source, non_blocking=True))
        found.append(sizes.copied_bytes / seconds / 1e9)
    return found[0], found[1]


def _check(device: torch.device, dtype: torch.dtype) -> HalfCheck:
    """Compare with fp32: a GTX 16 gives NaN in fp16 convolutions from some batch size on."""
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(16, 32, 14, 14, generator=generator).to(device)
    # Scaled, so that the sums below stay far from the largest number of fp16, 65,504.
    weights = torch.randn(32, 32, 3, 3, generator=generator).to(device) / 17

    def work(kind: torch.dtype) -> Tensor:
        maps = functional.conv2d(images.to(kind), weights.to(kind), padding=1)
        rows = maps.flatten(1)
        return torch.cat([maps.flatten().float(), (rows @ rows.T).flatten().float()])

    with _arithmetic("fp32"):
        exact, half = work(torch.float32), work(dtype)
    difference = (half - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return HalfCheck(bool(torch.isfinite(half).all()), float(difference))
