"""What does not change about an installed card: limits, link and modes, as far as NVML tells."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CardFacts", "handle_of", "nvml_value", "read_card_facts"]


@dataclass(frozen=True)
class CardFacts:
    """Static facts of one card. None means that NVML does not tell.

    Attributes:
        bus_id: PCI address, such as "00000000:01:00.0".
        numa_node: Of the processors that are nearest.
        power_limit_w: In force.
        power_default_w: As shipped.
        power_range_w: Smallest and largest limit that may be set.
        sm_clock_limit_mhz: Highest clock of the multiprocessors.
        memory_clock_limit_mhz: Highest clock of the memory.
        pcie_generation: Most that card and slot can do; the link slows down when it is idle.
        pcie_width: Lanes in use.
        pcie_width_limit: Lanes that the card has.
        is_ecc_on: Whether the memory corrects errors, which costs some of its bandwidth.
        is_mig_on: Whether the card is cut into slices.
        is_persistent: Whether the driver stays loaded without a process; start-up is slower else.
        compute_mode: `default`, `exclusive_process` or `prohibited`.
    """

    bus_id: str | None = None
    numa_node: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    power_range_w: tuple[float, float] | None = None
    sm_clock_limit_mhz: int | None = None
    memory_clock_limit_mhz: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_width_limit: int | None = None
    is_ecc_on: bool | None = None
    is_mig_on: bool | None = None
    is_persistent: bool | None = None
    compute_mode: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


_COMPUTE_MODES = {0: "default", 2: "prohibited", 3: "exclusive_process"}


def handle_of(nvml: Any, uuid: str) -> Any:
    """Return NVML's handle of the card or slice with that identity, or None.

    Args:
        nvml: The module `pynvml`, initialised.
        uuid: Without the prefix that tells a card from a slice.
    """
    for prefix in ("GPU-", "MIG-"):
        handle = _ask(nvml.nvmlDeviceGetHandleByUUID, nvml, f"{prefix}{uuid}")
        if handle is not None:
            return handle
    return None


def nvml_value(
    nvml: Any, query: str, *arguments: Any, convert: Callable[[Any], Any] | None = None
) -> Any:
    """Ask NVML for one value; None where library, driver or card does not have it.

    Args:
        nvml: The module `pynvml`, initialised.
        query: Name of its function.
        arguments: Of that function.
        convert: Applied to an answer.
    """
    function = getattr(nvml, query, None)
    value = None if function is None else _ask(function, nvml, *arguments)
    return value if value is None or convert is None else convert(value)


def read_card_facts(nvml: Any, handle: Any) -> CardFacts:
    """Read the facts of a card.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: Of the card.
    """

    def get(query: str, *arguments: Any, convert: Callable[[Any], Any] | None = None) -> Any:
        return nvml_value(nvml, query, handle, *arguments, convert=convert)

    return CardFacts(
        bus_id=get("nvmlDeviceGetPciInfo", convert=lambda info: _text(info.busId)),
        numa_node=get("nvmlDeviceGetNumaNodeId", convert=int),
        power_limit_w=get("nvmlDeviceGetEnforcedPowerLimit", convert=_watts),
        power_default_w=get("nvmlDeviceGetPowerManagementDefaultLimit", convert=_watts),
        power_range_w=get(
            "nvmlDeviceGetPowerManagementLimitConstraints",
            convert=lambda ends: (_watts(ends[0]), _watts(ends[1])),
        ),
        sm_clock_limit_mhz=get(
            "nvmlDeviceGetMaxClockInfo", getattr(nvml, "NVML_CLOCK_SM", 1), convert=int
        ),
        memory_clock_limit_mhz=get(
            "nvmlDeviceGetMaxClockInfo", getattr(nvml, "NVML_CLOCK_MEM", 2), convert=int
        ),
        pcie_generation=get("nvmlDeviceGetMaxPcieLinkGeneration", convert=int),
        pcie_width=get("nvmlDeviceGetCurrPcieLinkWidth", convert=int),
        pcie_width_limit=get("nvmlDeviceGetMaxPcieLinkWidth", convert=int),
        is_ecc_on=get("nvmlDeviceGetEccMode", convert=_current),
        is_mig_on=get("nvmlDeviceGetMigMode", convert=_current),
        is_persistent=get("nvmlDeviceGetPersistenceMode", convert=bool),
        compute_mode=get("nvmlDeviceGetComputeMode", convert=_COMPUTE_MODES.get),
    )


def _ask(function: Callable[..., Any], nvml: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (nvml.NVMLError, AttributeError):  # AttributeError: of the driver's library
        return None


def _current(modes: Any) -> bool:
    """Take the mode in force of a pair of it and the one after a restart."""
    return bool(modes[0])


def _watts(milliwatts: float) -> float:
    return milliwatts / 1000


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
