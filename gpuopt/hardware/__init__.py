"""Floor 1: what the machine is and what it can do. Importing this does not import torch."""

from gpuopt.hardware.absent import AbsentGpu
from gpuopt.hardware.build_support import refuse_unsupported, supported_by_build
from gpuopt.hardware.card_facts import CardFacts
from gpuopt.hardware.catalogue import load_catalogue, recognise, shipped_catalogue
from gpuopt.hardware.control_groups import CGROUP_ROOT, MEMBERSHIP, ControlGroup
from gpuopt.hardware.cuda_driver import DriverDevice, driver_devices
from gpuopt.hardware.device import Device, DeviceProcess, DeviceReading, NullDevice
from gpuopt.hardware.gpu import PRECISIONS, Gpu, SeedRow
from gpuopt.hardware.host import Host
from gpuopt.hardware.host_capacity import host_memory_bytes, memory_limit
from gpuopt.hardware.host_memory import give_back_freed_memory, keep_freed_memory
from gpuopt.hardware.image_size import choose_image_size
from gpuopt.hardware.inventory import InstalledCard, Machine, look_at_machine
from gpuopt.hardware.memory_cap import apply_memory_limit
from gpuopt.hardware.nvml import NvmlDevice
from gpuopt.hardware.nvml_devices import cuda_devices, visible_devices
from gpuopt.hardware.policy import MEASURED_HEADROOM_RATIO
from gpuopt.hardware.precision import (
    float32_matmul_precision,
    lightning_precision,
    resolve_precision,
)
from gpuopt.hardware.process_age import process_age_s
from gpuopt.hardware.processors import (
    available_cpus,
    cpu_quota,
    processor_flags,
    processor_name,
    recommended_workers,
)
from gpuopt.hardware.profile import profile_from_device
from gpuopt.hardware.selection import select_gpu
from gpuopt.hardware.topology import CardLink
from gpuopt.hardware.torch_build import (
    TorchBuild,
    installed_versions,
    least_driver,
    torch_build,
    torch_versions,
)

__all__ = [
    "CGROUP_ROOT",
    "MEASURED_HEADROOM_RATIO",
    "MEMBERSHIP",
    "PRECISIONS",
    "AbsentGpu",
    "CardFacts",
    "CardLink",
    "ControlGroup",
    "Device",
    "DeviceProcess",
    "DeviceReading",
    "DriverDevice",
    "Gpu",
    "Host",
    "InstalledCard",
    "Machine",
    "NullDevice",
    "NvmlDevice",
    "SeedRow",
    "TorchBuild",
    "apply_memory_limit",
    "available_cpus",
    "choose_image_size",
    "cpu_quota",
    "cuda_devices",
    "driver_devices",
    "float32_matmul_precision",
    "give_back_freed_memory",
    "host_memory_bytes",
    "installed_versions",
    "keep_freed_memory",
    "least_driver",
    "lightning_precision",
    "load_catalogue",
    "look_at_machine",
    "memory_limit",
    "process_age_s",
    "processor_flags",
    "processor_name",
    "profile_from_device",
    "recognise",
    "recommended_workers",
    "refuse_unsupported",
    "resolve_precision",
    "select_gpu",
    "shipped_catalogue",
    "supported_by_build",
    "torch_build",
    "torch_versions",
    "visible_devices",
]
