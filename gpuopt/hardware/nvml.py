"""Reading NVIDIA GPUs through NVML, where every single field can be missing.

NVML lacks fields under WSL, in MIG slices, on old drivers and on consumer cards, and a GPU can
fall off the bus in the middle of a run. None of that may stop a training run, so whatever fails
becomes None and is reported once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from gpuopt.hardware.device import DeviceReading
from gpuopt.hardware.nvml_processes import DeviceProcesses
from gpuopt.hardware.nvml_query import NvmlQuery

__all__ = ["NvmlDevice"]

# Bits of nvmlDeviceGetCurrentClocksEventReasons, from nvml.h. The clocks of an idle card and
# those that an application asked for are no throttling, so their bits have no word.
_THROTTLE_WORDS = {
    0x04: "power_cap",
    0x08: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "software_thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
}
# Field values from nvml.h. The counters of time are in nanoseconds, under the words above where
# the reason is the same.
_VIOLATIONS = {
    74: "power_cap",
    76: "sync_boost",
    77: "board_limit",
    79: "reliability",
    269: "software_thermal",
    270: "hardware_thermal",
    271: "power_brake",
}
_MEMORY_TEMPERATURE, _PCIE_SENT, _PCIE_RECEIVED = 82, 197, 198
_KILOBYTE = 1000
_SELDOM_S = 10.0
_ALWAYS_KNOWN = ("index", "name", "uuid")


class NvmlDevice:
    """One NVIDIA GPU, or a MIG slice of one.

    What changes slowly or is slow to ask is read every ten seconds and kept in between: the
    counters of memory errors, the fans, the state and limits of link and clock, and the details.
    Of a slice, temperature, clocks and link are those of its card; power and energy, which it
    shares with the other slices, are unavailable.

    Args:
        index: Position in CUDA's order, which need not be NVML's.
        handle: NVML's handle of the device.
        nvml: The module `pynvml`, initialised.
        details: Whether to list the processes, and to measure the link's traffic also where the
            card has no counters of it, for which NVML listens for 20 ms in each direction.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        index: int,
        handle: Any,
        nvml: Any,
        *,
        details: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._nvml = nvml
        self._clock = clock
        self._own = NvmlQuery(nvml, handle, index)
        self._name = self._own.get("nvmlDeviceGetName", convert=_text)
        self._uuid = self._own.get("nvmlDeviceGetUUID", convert=_text)
        self._card = self._own
        if self._uuid is not None and self._uuid.startswith("MIG-"):
            card = self._own.get("nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
            self._card = self._own if card is None else NvmlQuery(nvml, card, index)
        self._processes = DeviceProcesses(nvml, self._own) if details else None
        self._seldom: dict[str, Any] = {}
        self._seldom_at_s: float | None = None
        self._traffic: tuple[float, Mapping[int, float]] | None = None

    @property
    def index(self) -> int:
        """Position in CUDA's order."""
        return self._index

    def read(self) -> DeviceReading:
        """Look at the device once; a field that NVML does not give is None."""
        nvml, own, card = self._nvml, self._own.get, self._card.get
        memory = own("nvmlDeviceGetMemoryInfo")
        rates = own("nvmlDeviceGetUtilizationRates")
        reading = DeviceReading(
            index=self._index,
            name=self._name,
            uuid=self._uuid,
            memory_total_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
            utilisation_ratio=None if rates is None else rates.gpu / 100,
            memory_utilisation_ratio=None if rates is None else rates.memory / 100,
            power_w=own("nvmlDeviceGetPowerUsage", convert=_from_milli),
            power_limit_w=own("nvmlDeviceGetEnforcedPowerLimit", convert=_from_milli),
            temperature_c=card(
                "nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU, convert=float
            ),
            sm_clock_mhz=card("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM, convert=int),
            memory_clock_mhz=card("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM, convert=int),
            energy_j=own("nvmlDeviceGetTotalEnergyConsumption", convert=_from_milli) or None,
            throttle_reasons=card(_clocks_query(nvml), convert=_throttle_words),
            encoder_ratio=own("nvmlDeviceGetEncoderUtilization", convert=_busy_ratio, rare=True),
            decoder_ratio=own("nvmlDeviceGetDecoderUtilization", convert=_busy_ratio, rare=True),
        )
        reading = replace(reading, **self._counted())
        if _is_lost(reading):
            self._seldom, self._seldom_at_s = {}, None
            return reading
        now_s = self._clock()
        if self._seldom_at_s is None or now_s - self._seldom_at_s >= _SELDOM_S:
            self._seldom, self._seldom_at_s = self._read_seldom(), now_s
        # What the counters tell of the traffic is newer than what was measured seldom.
        seldom = {k: v for k, v in self._seldom.items() if getattr(reading, k) is None}
        return replace(reading, **seldom)

    def _counted(self) -> dict[str, Any]:
        """Read the field values, which NVML gives all at once."""
        wanted = (_MEMORY_TEMPERATURE, _PCIE_SENT, _PCIE_RECEIVED, *_VIOLATIONS)
        found = self._card.fields(wanted)
        now_s = self._clock()
        before, self._traffic = self._traffic, (now_s, found)
        violation_s = {
            word: found[number] / 1e9 for number, word in _VIOLATIONS.items() if number in found
        }
        temperature = found.get(_MEMORY_TEMPERATURE)
        return {
            # A card without the sensor, such as a T4, answers 0.
            "memory_temperature_c": float(temperature) if temperature else None,
            "violation_s": violation_s or None,
            "pcie_sent_bytes_per_s": _rate(before, now_s, found, _PCIE_SENT),
            "pcie_received_bytes_per_s": _rate(before, now_s, found, _PCIE_RECEIVED),
        }

    def _read_seldom(self) -> dict[str, Any]:
        nvml, card = self._nvml, self._card.get
        errors = "nvmlDeviceGetTotalEccErrors"
        # From nvml.h: 0 is corrected, 1 uncorrected, and 0 since the driver was loaded.
        values: dict[str, Any] = {
            "fan_ratio": card("nvmlDeviceGetFanSpeed", convert=_from_percent, rare=True),
            "sm_clock_limit_mhz": card(
                "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM, convert=int, rare=True
            ),
            "ecc_corrected": card(errors, 0, 0, convert=int, rare=True),
            "ecc_uncorrected": card(errors, 1, 0, convert=int, rare=True),
            "pcie_generation": card("nvmlDeviceGetCurrPcieLinkGeneration", convert=int, rare=True),
            "pcie_width": card("nvmlDeviceGetCurrPcieLinkWidth", convert=int, rare=True),
        }
        if self._processes is not None:
            values["processes"] = self._processes.read()
            counted = {} if self._traffic is None else self._traffic[1]
            if _PCIE_SENT not in counted or _PCIE_RECEIVED not in counted:
                rates = [
                    card("nvmlDeviceGetPcieThroughput", way, convert=_from_kilobytes, rare=True)
                    for way in (0, 1)  # sent, received
                ]
                values["pcie_sent_bytes_per_s"], values["pcie_received_bytes_per_s"] = rates
        return values


def _clocks_query(nvml: Any) -> str:
    """Name the query of this library version; it was renamed in driver 535."""
    name = "nvmlDeviceGetCurrentClocksEventReasons"
    return name if hasattr(nvml, name) else "nvmlDeviceGetCurrentClocksThrottleReasons"


def _is_lost(reading: DeviceReading) -> bool:
    """Tell whether nothing at all could be measured."""
    values = (getattr(reading, f.name) for f in fields(reading) if f.name not in _ALWAYS_KNOWN)
    return all(value is None for value in values)


def _rate(
    before: tuple[float, Mapping[int, float]] | None,
    now_s: float,
    found: Mapping[int, float],
    number: int,
) -> float | None:
    """Return by how much a counter grew in a second; None where it did not go on from before."""
    if before is None or number not in found or number not in before[1] or now_s <= before[0]:
        return None
    grown = found[number] - before[1][number]
    return grown / (now_s - before[0]) if grown >= 0 else None  # it starts again when it is full


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _from_milli(value: float) -> float:
    return value / 1000


def _from_percent(value: float) -> float:
    return value / 100


def _from_kilobytes(value: float) -> float:
    return value * _KILOBYTE


def _busy_ratio(value: Sequence[int]) -> float:
    """Take the percentage; the length of the period that it is of comes after it."""
    return value[0] / 100


def _throttle_words(bits: int) -> list[str]:
    return [word for bit, word in _THROTTLE_WORDS.items() if bits & bit]
