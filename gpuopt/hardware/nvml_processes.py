"""Which processes hold memory of an NVIDIA GPU."""

import logging
from pathlib import PurePath
from typing import Any

from gpuopt.hardware.device import DeviceProcess
from gpuopt.hardware.nvml_query import NvmlQuery

__all__ = ["DeviceProcesses"]

_log = logging.getLogger(__name__)

_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)


class DeviceProcesses:
    """Lists processes, and remembers the names of those that stay.

    Args:
        nvml: The module `pynvml`, initialised.
        query: Asks about the device.
    """

    def __init__(self, nvml: Any, query: NvmlQuery) -> None:
        self._nvml = nvml
        self._query = query
        self._names: dict[int, str | None] = {}

    def read(self) -> list[DeviceProcess] | None:
        """List the processes, those with the most memory first; None where none can be listed.

        Of the command only the program is told: the rest of it may hold secrets. A container
        without the host's process numbers sees few or none of the others.
        """
        lists = [self._query.get(name, rare=True) for name in _LISTS]
        if all(found is None for found in lists):
            return None
        memory: dict[int, int | None] = {}
        for process in (process for found in lists if found for process in found):
            used, known = process.usedGpuMemory, memory.get(process.pid)
            # A process that computes and draws is in two lists with the same memory.
            memory[process.pid] = known if used is None else max(int(used), known or 0)
        self._names = {pid: self._names.get(pid) or self._name(pid) for pid in memory}
        found = [DeviceProcess(pid, self._names[pid], used) for pid, used in memory.items()]
        return sorted(found, key=lambda process: (-(process.memory_used_bytes or 0), process.pid))

    def _name(self, pid: int) -> str | None:
        try:
            name = self._nvml.nvmlSystemGetProcessName(pid)
        except (self._nvml.NVMLError, AttributeError) as error:
            _log.debug("process %d has no name: %s", pid, error)  # it may have ended
            return None
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        words = text.split()
        return PurePath(words[0]).name if words else None
