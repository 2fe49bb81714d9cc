"""What is known about the machine, and a run on it, at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuopt.hardware import DeviceReading

__all__ = ["HostReading", "Sample"]


@dataclass(frozen=True)
class HostReading:
    """The machine around the devices. None means unavailable, never zero.

    Attributes:
        cpu_ratio: Share of the processors that this process may use and that are busy, 0 to 1.
        memory_used_bytes: Of the machine, or of the container where that is the limit.
        memory_total_bytes: The same, all of it.
    """

    cpu_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


@dataclass(frozen=True)
class Sample:
    """All readings of one moment.

    Attributes:
        time_s: Unix time.
        devices: One reading of each device, in CUDA's order.
        host: The machine.
        throttled_s: By device's index and reason, for how long the clock was held down since
            sampling began, in seconds.
        training: Newest metrics of the run that is watched, by name; empty without one.
        number: Counts the samples of a sampler from 0 on; a gap means that some were lost.
        used_j: By device's index, the energy used since sampling began, in joules. A device
            whose energy and power are unavailable is not in it.
    """

    time_s: float
    devices: tuple[DeviceReading, ...] = ()
    host: HostReading = HostReading()
    throttled_s: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    training: Mapping[str, float] = field(default_factory=dict)
    number: int = 0
    used_j: Mapping[int, float] = field(default_factory=dict)
