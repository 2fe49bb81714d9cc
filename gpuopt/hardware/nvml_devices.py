"""Which NVIDIA GPUs can be read, in CUDA's order."""

import importlib
import logging
from collections.abc import Sequence
from typing import Any

from gpuopt.hardware.cuda_driver import driver_devices
from gpuopt.hardware.device import Device
from gpuopt.hardware.nvml import NvmlDevice

__all__ = ["cuda_devices", "visible_devices"]

_log = logging.getLogger(__name__)


def cuda_devices(
    nvml: Any | None = None, uuids: Sequence[str] | None = None, *, details: bool = False
) -> list[Device]:
    """List the GPUs that CUDA shows to this process, in CUDA's order.

    CUDA_VISIBLE_DEVICES and containers renumber the GPUs, so they are matched by UUID. With
    the default arguments this asks torch, which starts the CUDA driver in this process.

    Args:
        nvml: The module `pynvml`; imported when None.
        uuids: UUIDs in CUDA's order, with or without "GPU-"; asked from torch when None.
        details: Whether to read processes and the link's traffic, see `NvmlDevice`.

    Returns:
        Readable devices; empty without GPUs, without the library or with a driver that does
        not match it. A GPU that NVML does not know is left out with a warning.
    """
    uuids = _torch_uuids() if uuids is None else uuids
    nvml = _started(nvml) if uuids else None
    if nvml is None:
        return []
    devices: list[Device] = []
    for index, uuid in enumerate(uuids):
        try:
            devices.append(NvmlDevice(index, _handle(nvml, uuid), nvml, details=details))
        except nvml.NVMLError as error:
            _log.warning("GPU %d (%s) cannot be monitored: %s", index, uuid, error)
    return devices


def visible_devices(nvml: Any | None = None, uuids: Sequence[str] | None = None) -> list[Device]:
    """List the GPUs with all details, without torch, for who only watches.

    Args:
        nvml: The module `pynvml`; imported when None.
        uuids: UUIDs in CUDA's order; asked from CUDA's driver when None.

    Returns:
        As `cuda_devices`. Where CUDA's driver tells nothing, such as in a container with the
        monitoring part of the driver only, all GPUs that NVML knows, in its order.
    """
    if uuids is None:
        uuids = [device.uuid for device in driver_devices() if device.uuid is not None]
    if uuids:
        return cuda_devices(nvml, uuids, details=True)
    nvml = _started(nvml)
    if nvml is None:
        return []
    devices: list[Device] = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            devices.append(NvmlDevice(index, handle, nvml, details=True))
    except nvml.NVMLError as error:
        _log.warning("GPU %d cannot be monitored: %s", len(devices), error)
    return devices


def _started(nvml: Any | None) -> Any | None:
    """Import the library unless it is given, and start it; None with a warning when it fails."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            _log.warning("GPUs cannot be monitored: the package nvidia-ml-py is not installed")
            return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        _log.warning("GPUs cannot be monitored: NVML does not start: %s", error)
        return None
    return nvml


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
