"""The machine around the cards: processors, memory, WSL, and cards that no driver has claimed."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpuopt.hardware.host_capacity import host_memory_bytes
from gpuopt.hardware.processors import available_cpus, processor_name
from gpuopt.hardware.shared_memory import full_shared_memory

__all__ = ["Host", "look_at_host"]

_KERNEL = Path("/proc/version")
_BUS = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"


@dataclass(frozen=True)
class Host:
    """What is known about the machine.

    Attributes:
        processor: Model of the first CPU.
        cpus: That this process may use.
        machine_cpus: That the machine has.
        memory_bytes: That this process may use.
        is_wsl: Whether this Linux runs inside of Windows.
        full_shared_memory: How full it is, when that is a problem.
        cards_on_bus: NVIDIA cards that are plugged in, whether a driver has them or not.
        visible_devices: `CUDA_VISIBLE_DEVICES`, which hides cards.
    """

    processor: str
    cpus: int
    machine_cpus: int
    memory_bytes: int
    is_wsl: bool = False
    full_shared_memory: str | None = None
    cards_on_bus: int = 0
    visible_devices: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def look_at_host(kernel: Path = _KERNEL, bus: Path = _BUS) -> Host:
    """Look at this machine.

    Args:
        kernel: The file in which Linux names its kernel.
        bus: Where it lists what is plugged in.
    """
    return Host(
        processor=processor_name(),
        cpus=available_cpus(),
        machine_cpus=os.cpu_count() or 1,
        memory_bytes=host_memory_bytes(),
        is_wsl="microsoft" in _text(kernel).lower(),
        full_shared_memory=full_shared_memory(),
        cards_on_bus=_cards_on_bus(bus),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _cards_on_bus(bus: Path) -> int:
    try:
        devices = list(bus.iterdir())
    except OSError:
        return 0
    return sum(
        _text(device / "vendor").strip() == _NVIDIA
        and _text(device / "class").startswith(_DISPLAY_CLASS)
        for device in devices
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
