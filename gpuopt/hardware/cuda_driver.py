"""Which CUDA devices there are, asked from the driver itself: no torch, no context, no seconds."""

import ctypes
import uuid
from dataclasses import dataclass
from typing import Any

__all__ = ["DriverDevice", "driver_devices"]

# From cuda.h: CUdevice_attribute.
_SM_COUNT, _MAJOR, _MINOR = 16, 75, 76
_CLOCK_RATE, _MEMORY_CLOCK_RATE, _MEMORY_BUS_WIDTH = 13, 36, 37
_NAME_BYTES = 256


@dataclass(frozen=True)
class DriverDevice:
    """What the driver tells about one device, named as in torch's device properties.

    Attributes:
        index: Position in CUDA's order, `CUDA_VISIBLE_DEVICES` respected.
        name: Such as "NVIDIA GeForce RTX 3060".
        total_memory: Bytes.
        multi_processor_count: Streaming multiprocessors.
        major: Of the compute capability.
        minor: Of the compute capability.
        uuid: Without prefix, as torch writes it; None with a driver that does not tell.
        clock_rate: Highest clock of the multiprocessors in kHz; 0 where the driver does not tell.
        memory_clock_rate: The same of the memory.
        memory_bus_width: Bits; 0 where the driver does not tell.
    """

    index: int
    name: str
    total_memory: int
    multi_processor_count: int
    major: int
    minor: int
    uuid: str | None = None
    clock_rate: int = 0
    memory_clock_rate: int = 0
    memory_bus_width: int = 0

    @property
    def memory_mib(self) -> int:
        """Total memory in MiB."""
        return self.total_memory // 2**20


def driver_devices(library: Any | None = None) -> list[DriverDevice]:
    """List the devices that CUDA would use in this process.

    Args:
        library: The CUDA driver's library; loaded when None.

    Returns:
        In CUDA's order; empty without a driver, without a device, or when the driver fails.
    """
    if library is None:
        library = _load()
    count = ctypes.c_int()
    if library is None or library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = (_device(library, index) for index in range(count.value))
    return [device for device in found if device is not None]


def _load() -> Any | None:
    for name in ("libcuda.so.1", "libcuda.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _device(library: Any, index: int) -> DriverDevice | None:
    handle, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    failed = (
        library.cuDeviceGet(ctypes.byref(handle), index)
        or library.cuDeviceGetName(name, _NAME_BYTES, handle)
        or library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    )
    if failed:
        return None

    def number(which: int) -> int:
        return _attribute(library, which, handle)

    return DriverDevice(
        index=index,
        name=name.value.decode("utf-8", "replace"),
        total_memory=memory.value,
        multi_processor_count=number(_SM_COUNT),
        major=number(_MAJOR),
        minor=number(_MINOR),
        uuid=_uuid(library, handle),
        clock_rate=number(_CLOCK_RATE),
        memory_clock_rate=number(_MEMORY_CLOCK_RATE),
        memory_bus_width=number(_MEMORY_BUS_WIDTH),
    )


def _uuid(library: Any, handle: ctypes.c_int) -> str | None:
    """Ask for the UUID of a GPU, or of the MIG slice that stands for one."""
    text = (ctypes.c_ubyte * 16)()
    try:
        failed = library.cuDeviceGetUuid_v2(text, handle)
    except AttributeError:  # before CUDA 11.4
        return None
    return None if failed else str(uuid.UUID(bytes=bytes(text)))


def _attribute(library: Any, which: int, handle: Any) -> int:
    value = ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(value), which, handle)
    return value.value
