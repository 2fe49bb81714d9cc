"""A profile for a card that no preset knows, from the properties that CUDA reports."""

from typing import Any

from gpuopt.hardware.gpu import Gpu
from gpuopt.hardware.policy import (
    has_tensor_cores,
    recommended_image_size,
    recommended_num_workers,
    recommended_precision,
)

__all__ = ["profile_from_device"]

# (architecture, fp32 cores per SM, dense fp16 multiply-adds per clock and SM on tensor cores).
# From NVIDIA's architecture whitepapers; multiplied out they give the rates of the presets.
_BY_CAPABILITY: dict[tuple[int, int], tuple[str, int, int]] = {
    (5, 0): ("Maxwell", 128, 0),
    (5, 2): ("Maxwell", 128, 0),
    (6, 0): ("Pascal", 64, 0),
    (6, 1): ("Pascal", 128, 0),
    (7, 0): ("Volta", 64, 512),
    (7, 5): ("Turing", 64, 512),
    (8, 0): ("Ampere", 64, 1024),
    (8, 6): ("Ampere", 128, 512),
    (8, 7): ("Ampere", 128, 512),
    (8, 9): ("Ada Lovelace", 128, 512),
    (9, 0): ("Hopper", 128, 2048),
    (10, 0): ("Blackwell", 128, 4096),
    (12, 0): ("Blackwell", 128, 512),
}
_FIRST_FP8 = (8, 9)
_OPERATIONS_PER_FMA = 2
_TRANSFERS_PER_CLOCK = 2


def profile_from_device(device_properties: Any) -> Gpu:
    """Describe a card by what was measured on it.

    Rates are clock times units, an upper bound; whatever CUDA does not report stays None.

    Args:
        device_properties: As `torch.cuda.get_device_properties` returns them: `name`,
            `total_memory` in bytes, `multi_processor_count`, `major`, `minor`, and where the
            build has them `clock_rate` and `memory_clock_rate` in kHz and `memory_bus_width`
            in bits.
    """
    capability = (int(device_properties.major), int(device_properties.minor))
    sm_count = int(device_properties.multi_processor_count)
    memory_mib = int(device_properties.total_memory) // 2**20
    architecture, fp32_tflops, tensor_tflops = _rates(device_properties, capability, sm_count)
    precision = recommended_precision(capability, has_tensor_cores(capability, sm_count))
    return Gpu(
        name=str(device_properties.name),
        nvml_name=str(device_properties.name),
        memory_mib=memory_mib,
        compute_capability=f"{capability[0]}.{capability[1]}",
        architecture=architecture,
        sm_count=sm_count,
        memory_bandwidth_gb_per_s=_bandwidth_gb_per_s(device_properties),
        fp32_tflops=fp32_tflops,
        tensor_tflops=tensor_tflops,
        bf16_native=capability >= (8, 0),
        fp8=capability >= _FIRST_FP8,
        precision=precision,
        num_workers=recommended_num_workers(tensor_tflops or fp32_tflops),
        image_size=recommended_image_size(memory_mib),
    )


def _rates(
    properties: Any, capability: tuple[int, int], sm_count: int
) -> tuple[str | None, float | None, float | None]:
    """Return architecture, fp32 rate and tensor rate, both in TFLOP/s."""
    # Binary compatibility makes a newer minor version of a known major one the same design.
    candidates = [c for c in _BY_CAPABILITY if c[0] == capability[0] and c <= capability]
    if not candidates:
        return None, None, None
    architecture, cores, tensor_fma = _BY_CAPABILITY[max(candidates)]
    clock_hz = 1e3 * float(getattr(properties, "clock_rate", 0) or 0)
    if clock_hz <= 0:
        return architecture, None, None
    per_unit = sm_count * clock_hz * _OPERATIONS_PER_FMA / 1e12
    fp32_tflops = round(per_unit * cores, 1)
    if not tensor_fma or not has_tensor_cores(capability, sm_count):
        return architecture, fp32_tflops, None
    # GeForce halves the rate with fp32 accumulation, except on the chips of data centres.
    halved = "GeForce" in str(properties.name) and capability[0] in (7, 8, 12)
    return architecture, fp32_tflops, round(per_unit * tensor_fma / (2 if halved else 1), 1)


def _bandwidth_gb_per_s(properties: Any) -> float | None:
    clock_hz = 1e3 * float(getattr(properties, "memory_clock_rate", 0) or 0)
    bus_bytes = float(getattr(properties, "memory_bus_width", 0) or 0) / 8
    if clock_hz <= 0 or bus_bytes <= 0:
        return None
    return round(_TRANSFERS_PER_CLOCK * clock_hz * bus_bytes / 1e9, 1)
