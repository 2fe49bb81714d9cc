"""What PyTorch's CUDA allocator did during a step, as plain values."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["allocator_snapshot"]

# The events of a few steps of a large model; 100 bytes each in the file.
_MOST_EVENTS = 50_000
_FRAMES = "frames"


def allocator_snapshot(run: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Record the allocator while something runs.

    Args:
        run: Runs the steps; called only where they are recorded.
        device: Where they run.

    Returns:
        `segments` and `device_traces` (each allocation and release, in their order) of the
        device, without the frames of Python; or `absent` with the reason.
    """
    if device.type != "cuda":
        return {"absent": f"no step was run on a CUDA device: the allocator of {device} keeps none"}
    record: Any = torch.cuda.memory._record_memory_history  # its signature is not typed
    record(enabled="all", context=None, max_entries=_MOST_EVENTS)
    try:
        run()
        snapshot = torch.cuda.memory._snapshot(device)
    finally:
        record(enabled=None)
    index = device.index or 0
    segments = [part for part in snapshot["segments"] if part.get("device", index) == index]
    traces = snapshot["device_traces"]
    return {
        "segments": _plain(segments),
        "device_traces": _plain(traces[index] if index < len(traces) else []),
    }


def _plain(value: Any) -> Any:
    """Keep what JSON can hold, without frames."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if key != _FRAMES}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str | None) else str(value)
