"""What is known about one GPU model: the facts, and the policy that follows from them."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from gpuopt.errors import InputError, nearest
from gpuopt.hardware.policy import MEASURED_HEADROOM_RATIO, recommended_headroom_ratio

__all__ = ["PRECISIONS", "Gpu", "SeedRow", "capability_of"]

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

_MIB = 2**20
_POSITIVE = (
    "memory_mib",
    "sm_count",
    "memory_bandwidth_gb_per_s",
    "fp32_tflops",
    "tensor_tflops",
    "tdp_w",
    "memory_limit_mib",
)
_IMAGE_SIDES = range(16, 4097)
_MOST_WORKERS = 512
_LARGEST_HEADROOM_RATIO = 0.9


@dataclass
class SeedRow:
    """The row that the optimisation guide gives for a card, kept for reference only.

    Most of its batch sizes do not fit the card, so nothing trains with them.

    Attributes:
        batch_size: Samples per step on the device.
        image_size: Side in pixels.
        num_workers: Loader processes.
        accumulate_grad_batches: Batches per optimizer step.
        safety_factor: Share of the found batch size that the guide keeps.
        mode: The training mode, from the command's flag or the name of its config file.
        tier: `high-end`, `mid-range`, `budget` or `low-end`, by the card's name.
    """

    batch_size: int | None = None
    image_size: int | None = None
    num_workers: int | None = None
    accumulate_grad_batches: int | None = None
    safety_factor: float | None = None
    mode: str | None = None
    tier: str | None = None


@dataclass
class Gpu:
    """Facts and policy of one GPU model, as written in `conf/gpu/*.yaml`.

    None means unknown, or in the preset `auto`: take it from the card that is found.

    Attributes:
        name: Display name, with the memory where one name has several cards.
        nvml_name: Name that the driver reports; not unique, so memory decides as well.
        memory_mib: Total memory as nvidia-smi prints it.
        compute_capability: Such as "8.6". Written as a string because 10.0 is not 10.
        architecture: Family name.
        sm_count: Streaming multiprocessors.
        memory_bandwidth_gb_per_s: Peak, in 1e9 bytes per second.
        fp32_tflops: Peak outside the tensor cores, in 1e12 operations per second.
        tensor_tflops: Dense fp16/bf16 peak with fp32 accumulation; None without tensor cores.
        bf16_native: bf16 in hardware. torch also answers yes where it only emulates.
        fp8: FP8 tensor cores.
        tdp_w: Power limit as shipped.
        precision: Recommended precision, one of `PRECISIONS`.
        num_workers: Loader processes that keep the card busy, before the CPU count caps them.
        image_size: Side in pixels at which ConvNeXt-Base is sensible (mode highperf).
        headroom_ratio: Share of the memory that is kept free, whatever the evidence; None leaves
            it to `headroom`.
        memory_limit_mib: Behave as a card of this size; None uses all of it.
        seed: The guide's row for this card, or None where it has none.
    """

    name: str = "auto"
    nvml_name: str | None = None
    memory_mib: int | None = None
    compute_capability: str | None = None
    architecture: str | None = None
    sm_count: int | None = None
    memory_bandwidth_gb_per_s: float | None = None
    fp32_tflops: float | None = None
    tensor_tflops: float | None = None
    bf16_native: bool | None = None
    fp8: bool | None = None
    tdp_w: float | None = None
    precision: str | None = None
    num_workers: int | None = None
    image_size: int | None = None
    headroom_ratio: float | None = None
    memory_limit_mib: int | None = None
    seed: SeedRow | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether this is the preset that stands for running without a GPU."""
        return self.name == "cpu"

    def check(self) -> None:
        """Refuse numbers that no card or policy can have.

        Raises:
            InputError: A number is absurd; the message names the key, the value and the range.
        """
        for key in _POSITIVE:
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"gpu.{key}={value}: must be a number above 0")
        if self.compute_capability is not None:
            capability_of(self.compute_capability)
        self._check_policy()

    def _check_policy(self) -> None:
        if self.precision is not None and self.precision not in PRECISIONS:
            known = nearest(self.precision, PRECISIONS)
            raise InputError(f"gpu.precision={self.precision}: unknown precision{known}")
        if self.num_workers is not None and not 0 <= self.num_workers <= _MOST_WORKERS:
            raise InputError(f"gpu.num_workers={self.num_workers}: must be 0 to {_MOST_WORKERS}")
        if self.image_size is not None and self.image_size not in _IMAGE_SIDES:
            raise InputError(
                f"gpu.image_size={self.image_size}: must be "
                f"{_IMAGE_SIDES.start} to {_IMAGE_SIDES.stop - 1} pixels"
            )
        ratio = self.headroom_ratio
        if ratio is not None and not 0 <= ratio <= _LARGEST_HEADROOM_RATIO:
            raise InputError(
                f"gpu.headroom_ratio={ratio}: must be 0 to {_LARGEST_HEADROOM_RATIO}, "
                "the share of the memory to keep free"
            )
        limit, memory = self.memory_limit_mib, self.memory_mib
        if limit is not None and memory is not None and limit > memory:
            raise InputError(
                f"gpu.memory_limit_mib={limit}: above the {memory} MiB of {self.name}; "
                "give less, or leave it null"
            )

    def headroom(self, evidence: Literal["measured", "predicted"]) -> float:
        """Return the share of the memory to keep free: the dial, or else what the evidence needs.

        A measurement has seen what a step takes; a prediction may be wrong, and needs more.

        Raises:
            InputError: The memory is unknown, which decides for a prediction.
        """
        if self.headroom_ratio is not None:
            return self.headroom_ratio
        if evidence == "measured":
            return MEASURED_HEADROOM_RATIO
        return recommended_headroom_ratio(self._usable_mib())

    def budget_bytes(self) -> int:
        """Return the bytes that a prediction may take: memory or limit, less the headroom.

        Raises:
            InputError: The memory is unknown, as in an `auto` preset before a card is found.
        """
        return int(self._usable_mib() * _MIB * (1 - self.headroom("predicted")))

    def _usable_mib(self) -> int:
        if self.memory_mib is None:
            raise InputError(f"gpu.memory_mib is unknown for gpu={self.name}: give it, or a preset")
        return min(self.memory_mib, self.memory_limit_mib or self.memory_mib)

    def filled_from(self, card: "Gpu") -> "Gpu":
        """Return a copy whose unset fields, and the name of `auto`, come from another card."""
        pinned = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        if self.name == "auto":
            del pinned["name"]
        return replace(card, **pinned)


def capability_of(text: str) -> tuple[int, int]:
    """Split a compute capability such as "8.6" into its two numbers.

    Raises:
        InputError: The text is not two whole numbers with a dot between them.
    """
    major, dot, minor = str(text).partition(".")
    if not (dot and major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise InputError(f'gpu.compute_capability={text}: must look like "8.6"')
    return int(major), int(minor)
