"""All that is known about this machine's cards before a process uses them. Imports no torch."""

import importlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpuopt.hardware.card_facts import CardFacts, handle_of, nvml_value, read_card_facts
from gpuopt.hardware.cuda_driver import DriverDevice, driver_devices
from gpuopt.hardware.device import DeviceReading
from gpuopt.hardware.host import Host, look_at_host
from gpuopt.hardware.nvml import NvmlDevice
from gpuopt.hardware.topology import CardLink, read_links

__all__ = ["InstalledCard", "Machine", "look_at_machine"]


@dataclass(frozen=True)
class InstalledCard:
    """One card that CUDA shows to this process.

    Attributes:
        device: What the CUDA driver tells.
        facts: What does not change.
        reading: What it does at the moment.
    """

    device: DriverDevice
    facts: CardFacts = field(default_factory=CardFacts)
    reading: DeviceReading = field(default_factory=lambda: DeviceReading(0))

    @property
    def capability(self) -> str:
        """Compute capability, such as "8.6"."""
        return f"{self.device.major}.{self.device.minor}"

    @property
    def used_bytes(self) -> int | None:
        """Memory that is taken, by whomever; None where that is not known."""
        return self.reading.memory_used_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **asdict(self.device),
            "facts": self.facts.as_dict(),
            "reading": asdict(self.reading),
        }


@dataclass(frozen=True)
class Machine:
    """The machine.

    Attributes:
        host: Processors and memory.
        cards: That CUDA shows to this process.
        links: Between them.
        driver: Version of the NVIDIA driver, such as "580.65"; None without one.
        driver_cuda: Latest version of CUDA that it runs, such as "13.0".
        cards_of_driver: How many cards the driver has, those that are hidden included.
    """

    host: Host
    cards: tuple[InstalledCard, ...] = ()
    links: tuple[CardLink, ...] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    cards_of_driver: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "host": self.host.as_dict(),
            "cards": [card.as_dict() for card in self.cards],
            "links": [link.as_dict() for link in self.links],
            "driver": self.driver,
            "driver_cuda": self.driver_cuda,
            "cards_of_driver": self.cards_of_driver,
        }


def look_at_machine(
    nvml: Any | None = None,
    devices: Sequence[DriverDevice] | None = None,
    host: Host | None = None,
) -> Machine:
    """Look at this machine once.

    Args:
        nvml: The module `pynvml`; imported when None.
        devices: CUDA's devices; asked from the driver when None.
        host: The machine around them; looked at when None.
    """
    host = look_at_host() if host is None else host
    devices = driver_devices() if devices is None else devices
    nvml = _started(nvml)
    if nvml is None:
        return Machine(host, tuple(InstalledCard(device) for device in devices))
    handles = [device.uuid and handle_of(nvml, device.uuid) for device in devices]
    pairs = zip(devices, handles, strict=True)
    return Machine(
        host,
        tuple(_card(nvml, device, handle) for device, handle in pairs),
        tuple(read_links(nvml, handles)),
        driver=nvml_value(nvml, "nvmlSystemGetDriverVersion", convert=_text),
        driver_cuda=nvml_value(nvml, "nvmlSystemGetCudaDriverVersion", convert=_cuda_version),
        cards_of_driver=nvml_value(nvml, "nvmlDeviceGetCount", convert=int),
    )


def _started(nvml: Any | None) -> Any | None:
    """Start NVML; None where there is no driver, or one that does not match the library."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _card(nvml: Any, device: DriverDevice, handle: Any) -> InstalledCard:
    if not handle:
        return InstalledCard(device, reading=DeviceReading(device.index))
    log = logging.getLogger("gpuopt.hardware.nvml_query")
    level = log.level
    log.setLevel(logging.ERROR)  # a field that is missing reads n/a here, which says enough
    try:
        reading = NvmlDevice(device.index, handle, nvml, details=True).read()
    finally:
        log.setLevel(level)
    return InstalledCard(device, read_card_facts(nvml, handle), reading)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _cuda_version(number: int) -> str:
    """Word NVML's number: 13000 is 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"
