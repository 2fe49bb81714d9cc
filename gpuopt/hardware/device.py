"""What can be read from a device while a run is going on, whatever the device is."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Device", "DeviceReading", "NullDevice"]


@dataclass(frozen=True)
class DeviceReading:
    """One look at a device. None means unavailable, never zero.

    Attributes:
        index: Position in CUDA's order.
        name: What the driver calls the device.
        uuid: Unique name of the device, as NVML writes it.
        memory_total_bytes: All memory of the device.
        memory_used_bytes: Used by all processes, what the driver reserves included.
        utilisation_ratio: Share of time in which some kernel ran, 0 to 1.
        memory_utilisation_ratio: Share of time in which the memory was read or written, 0 to 1.
        power_w: Draw at the moment.
        power_limit_w: Limit in force.
        temperature_c: Of the chip.
        sm_clock_mhz: Clock of the multiprocessors.
        memory_clock_mhz: Clock of the memory.
        energy_j: Counter since the driver was loaded; only differences mean something.
        throttle_reasons: Words for what holds the clock down; empty when nothing does.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilisation_ratio: float | None = None
    memory_utilisation_ratio: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    energy_j: float | None = None
    throttle_reasons: list[str] | None = None


class Device(Protocol):
    """Anything whose state can be read; reading never raises and never waits for kernels."""

    @property
    def index(self) -> int:
        """Position in CUDA's order."""

    def read(self) -> DeviceReading:
        """Look at the device once."""


@dataclass(frozen=True)
class NullDevice:
    """Stands for a device about which nothing can be known, such as a machine without a GPU.

    Attributes:
        index: Position to report.
        name: Name to report.
    """

    index: int = 0
    name: str = "cpu"

    def read(self) -> DeviceReading:
        """Return a reading in which every measured field is None."""
        return DeviceReading(index=self.index, name=self.name)
