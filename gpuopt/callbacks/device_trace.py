"""A short trace of a CUDA device: how busy it was, and where the host waited for it."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from gpuopt.measure.device_work import DeviceWork, TraceEvent, device_work

__all__ = ["DeviceTrace"]

_SYNCHRONISES = "called a synchronizing CUDA operation"


class DeviceTrace:
    """Looks at some steps, first for lines of code that wait and then at the device's time.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._places: Counter[str] = Counter()
        self._events: list[TraceEvent] = []

    @contextlib.contextmanager
    def noting_places(self) -> Iterator[None]:
        """Note the line of code of each operation that waits; `torch.cuda.synchronize` has none."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode(before)
        for warning in caught:
            if _SYNCHRONISES in str(warning.message):
                path = Path(warning.filename)
                self._places[f"{path.parent.name}/{path.name}:{warning.lineno}"] += 1

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record kernels, and the calls of CUDA's library."""
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            yield
        self._events = [_event(event) for event in profile.events() or ()]

    def work(self, steps: int) -> DeviceWork:
        """Sum up what was recorded in some optimizer steps; places were noted in one."""
        places: Mapping[str, float] = {name: float(n) for name, n in self._places.most_common()}
        return device_work(self._events, steps, places)


def _event(event: Any) -> TraceEvent:
    span = event.time_range
    return TraceEvent(event.name, event.device_type.name == "CUDA", span.start, span.end)
