"""What can be read from a device while a run is going on, whatever the device is."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Device", "DeviceProcess", "DeviceReading", "NullDevice"]


@dataclass(frozen=True)
class DeviceProcess:
    """A process that holds memory of a device.

    Attributes:
        pid: Of the process, as the driver sees it; in a container it may not be this machine's.
        name: What it was started as.
        memory_used_bytes: What it holds.
    """

    pid: int
    name: str | None = None
    memory_used_bytes: int | None = None


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
        encoder_ratio: Share of time in which the video encoder was busy, 0 to 1.
        decoder_ratio: The same of the decoder.
        memory_temperature_c: Of the memory.
        fan_ratio: Speed of the fans, 0 to 1 of the most.
        sm_clock_limit_mhz: Highest clock of the multiprocessors.
        violation_s: Counters of the time for which each reason held the clock down.
        ecc_corrected: Counter of memory errors that were corrected.
        ecc_uncorrected: Counter of those that were not.
        pcie_generation: Of the link at the moment.
        pcie_width: Lanes at the moment.
        pcie_received_bytes_per_s: Over the link, to the device.
        pcie_sent_bytes_per_s: Over the link, from the device.
        processes: Those that hold memory of the device.
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
    encoder_ratio: float | None = None
    decoder_ratio: float | None = None
    memory_temperature_c: float | None = None
    fan_ratio: float | None = None
    sm_clock_limit_mhz: int | None = None
    violation_s: dict[str, float] | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_received_bytes_per_s: float | None = None
    pcie_sent_bytes_per_s: float | None = None
    processes: list[DeviceProcess] | None = None


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
