"""Reading NVIDIA GPUs through NVML, where every single field can be missing.

NVML lacks fields under WSL, in MIG slices, on old drivers and on consumer cards, and a GPU can
fall off the bus in the middle of a run. None of that may stop a training run, so whatever fails
becomes None and is reported once.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gpuopt.hardware.device import Device, DeviceReading

__all__ = ["NvmlDevice", "cuda_devices"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

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


class NvmlDevice:
    """One NVIDIA GPU.

    Args:
        index: Position in CUDA's order, which need not be NVML's.
        handle: NVML's handle of the device.
        nvml: The module `pynvml`, initialised.
    """

    def __init__(self, index: int, handle: Any, nvml: Any) -> None:
        self._index = index
        self._handle = handle
        self._nvml = nvml
        self._reported: set[str] = set()
        self._name = self._get("nvmlDeviceGetName", convert=_text)
        self._uuid = self._get("nvmlDeviceGetUUID", convert=_text)

    @property
    def index(self) -> int:
        """Position in CUDA's order."""
        return self._index

    def read(self) -> DeviceReading:
        """Look at the device once; a field that NVML does not give is None."""
        nvml, get = self._nvml, self._get
        memory = get("nvmlDeviceGetMemoryInfo")
        rates = get("nvmlDeviceGetUtilizationRates")
        return DeviceReading(
            index=self._index,
            name=self._name,
            uuid=self._uuid,
            memory_total_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
            utilisation_ratio=None if rates is None else rates.gpu / 100,
            memory_utilisation_ratio=None if rates is None else rates.memory / 100,
            power_w=get("nvmlDeviceGetPowerUsage", convert=_from_milli),
            power_limit_w=get("nvmlDeviceGetEnforcedPowerLimit", convert=_from_milli),
            temperature_c=get("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU, convert=float),
            sm_clock_mhz=get("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM, convert=int),
            memory_clock_mhz=get("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM, convert=int),
            energy_j=get("nvmlDeviceGetTotalEnergyConsumption", convert=_from_milli),
            throttle_reasons=get(_clocks_query(nvml), convert=_throttle_words),
        )

    def _get(self, query: str, *arguments: Any, convert: Callable[[Any], _T] | None = None) -> Any:
        """Ask NVML for one value; report a failure once per cause and return None."""
        try:
            value = getattr(self._nvml, query)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError) as error:
            cause = str(error)
            if cause not in self._reported:
                self._reported.add(cause)
                _log.warning(
                    "GPU %d: %s (first seen in %s); fields it affects are unavailable",
                    self._index,
                    cause,
                    query,
                )
            return None
        return value if convert is None else convert(value)


def cuda_devices(nvml: Any | None = None, uuids: Sequence[str] | None = None) -> list[Device]:
    """List the GPUs that CUDA shows to this process, in CUDA's order.

    CUDA_VISIBLE_DEVICES and containers renumber the GPUs, so they are matched by UUID. With
    the default arguments this asks torch, which starts the CUDA driver in this process.

    Args:
        nvml: The module `pynvml`; imported when None.
        uuids: UUIDs in CUDA's order, with or without "GPU-"; asked from torch when None.

    Returns:
        Readable devices; empty without GPUs, without the library or with a driver that does
        not match it. A GPU that NVML does not know is left out with a warning.
    """
    uuids = _torch_uuids() if uuids is None else uuids
    if not uuids:
        return []
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            _log.warning("GPUs cannot be monitored: the package nvidia-ml-py is not installed")
            return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        _log.warning("GPUs cannot be monitored: NVML does not start: %s", error)
        return []
    devices: list[Device] = []
    for index, uuid in enumerate(uuids):
        try:
            devices.append(NvmlDevice(index, _handle(nvml, uuid), nvml))
        except nvml.NVMLError as error:
            _log.warning("GPU %d (%s) cannot be monitored: %s", index, uuid, error)
    return devices


def _torch_uuids() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]


def _handle(nvml: Any, uuid: str) -> Any:
    """Find a device by UUID. CUDA leaves out the prefix that tells a GPU from a MIG slice."""
    if uuid.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def _clocks_query(nvml: Any) -> str:
    """Name the query of this library version; it was renamed in driver 535."""
    name = "nvmlDeviceGetCurrentClocksEventReasons"
    return name if hasattr(nvml, name) else "nvmlDeviceGetCurrentClocksThrottleReasons"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _from_milli(value: float) -> float:
    return value / 1000


def _throttle_words(bits: int) -> list[str]:
    return [word for bit, word in _THROTTLE_WORDS.items() if bits & bit]
