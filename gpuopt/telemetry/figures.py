"""What a sample tells a person: labelled figures with units, and n/a for what is unavailable."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuopt.errors import one_line
from gpuopt.hardware import DeviceReading
from gpuopt.telemetry.sample import HostReading, Sample

__all__ = [
    "UNAVAILABLE",
    "Figure",
    "device_figures",
    "device_title",
    "host_figures",
    "shown_devices",
    "sparkline",
    "time_text",
    "training_figures",
]

UNAVAILABLE = "n/a"
_BLOCKS = "▁▂▃▄▅▆▇█"
_LONGEST_NAME = 48


@dataclass(frozen=True)
class Figure:
    """One thing that is shown of a device, the machine or a run.

    Attributes:
        label: What it is.
        text: Its value in words.
        value: The number behind it, of which a history can be drawn; None without one.
        ceiling: What the value can be at most; None where that is unknown.
        is_drawn: Whether its history tells something.
    """

    label: str
    text: str
    value: float | None = None
    ceiling: float | None = None
    is_drawn: bool = True


def shown_devices(sample: Sample) -> tuple[DeviceReading, ...]:
    """Return the devices; on a machine without a GPU one about which nothing is known."""
    return sample.devices or (DeviceReading(index=0),)


def device_title(reading: DeviceReading, sample: Sample) -> str:
    """Name a device."""
    if not sample.devices:
        return "no GPU"
    return f"GPU {reading.index}  {one_line(reading.name or UNAVAILABLE, _LONGEST_NAME)}"


def device_figures(reading: DeviceReading, sample: Sample) -> list[Figure]:
    """Word what is known of a device, always under the same labels."""
    r = reading
    memory = _of_all(_gib(r.memory_used_bytes), _gib(r.memory_total_bytes), "GiB", digits=1)
    clock = _of_all(r.sm_clock_mhz, r.sm_clock_limit_mhz, "MHz")
    celsius = _plain(r.temperature_c, "°C")
    used_j = sample.used_j.get(r.index)
    return [
        Figure("utilisation", _percent(r.utilisation_ratio), r.utilisation_ratio, 1.0),
        Figure("memory", memory, r.memory_used_bytes, r.memory_total_bytes),
        Figure("power", _of_all(r.power_w, r.power_limit_w, "W"), r.power_w, r.power_limit_w),
        Figure("temperature", celsius, r.temperature_c, 100.0),
        Figure("SM clock", clock, r.sm_clock_mhz, r.sm_clock_limit_mhz),
        Figure("energy", _energy(used_j), used_j, is_drawn=False),
        Figure("throttled", _throttling(reading, sample), is_drawn=False),
        Figure("processes", _processes(reading), is_drawn=False),
    ]


def host_figures(host: HostReading) -> list[Figure]:
    """Word what is known of the machine."""
    used, total = host.memory_used_bytes, host.memory_total_bytes
    memory = _of_all(_gib(used), _gib(total), "GiB", digits=1)
    return [
        Figure("CPU", _percent(host.cpu_ratio), host.cpu_ratio, 1.0),
        Figure("memory", memory, used, total),
    ]


def training_figures(sample: Sample) -> list[Figure]:
    """Word the newest metrics of the run that is watched."""
    return [
        Figure(one_line(name, _LONGEST_NAME), f"{value:.5g}", value)
        for name, value in sorted(sample.training.items())
    ]


def sparkline(values: Sequence[float | None], width: int, ceiling: float | None = None) -> str:
    """Draw the newest values as a line of blocks, one per value, blank where there is none.

    Args:
        values: Oldest first.
        width: Characters, of which the newest values take the last.
        ceiling: The value of a full block, above an empty one of 0; None takes the least and the
            greatest of the values for both.
    """
    shown = list(values)[-width:] if width > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return " " * width
    low, high = (0.0, ceiling) if ceiling else (min(known), max(known))
    line = "".join(" " if value is None else _block(value, low, high) for value in shown)
    return line.rjust(width)


def time_text(sample: Sample) -> str:
    """Word the time of a sample, where this machine is; with its day unless that is today."""
    time = datetime.fromtimestamp(sample.time_s)
    is_of_today = time.date() == datetime.now().date()
    return time.strftime("%H:%M:%S" if is_of_today else "%Y-%m-%d %H:%M:%S")


def _block(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.5
    return _BLOCKS[min(len(_BLOCKS) - 1, max(0, int(share * len(_BLOCKS))))]


def _percent(ratio: float | None) -> str:
    return UNAVAILABLE if ratio is None else f"{100 * ratio:.0f} %"


def _plain(value: float | None, unit: str) -> str:
    return UNAVAILABLE if value is None else f"{value:.0f} {unit}"


def _of_all(used: float | None, total: float | None, unit: str, digits: int = 0) -> str:
    """Word a value and its limit, which may be unknown."""
    if used is None:
        return UNAVAILABLE
    return f"{used:.{digits}f}{'' if total is None else f' / {total:.{digits}f}'} {unit}"


def _gib(size_bytes: float | None) -> float | None:
    return None if size_bytes is None else size_bytes / 2**30


def _energy(used_j: float | None) -> str:
    if used_j is None:
        return UNAVAILABLE
    return f"{used_j / 3600:.2f} Wh" if used_j >= 3600 else f"{used_j:.0f} J"


def _throttling(reading: DeviceReading, sample: Sample) -> str:
    """Word what holds the clock down now, and for how long each reason has."""
    reasons = reading.throttle_reasons
    if reasons is None:
        return UNAVAILABLE
    seconds = sample.throttled_s.get(reading.index, {})
    words = dict.fromkeys([*seconds, *reasons])
    parts = [
        f"{one_line(word, _LONGEST_NAME)} {seconds.get(word, 0):.0f} s"
        f"{' (now)' if word in reasons else ''}"
        for word in words
    ]
    return ", ".join(parts) or "no"


def _processes(reading: DeviceReading) -> str:
    """Name the processes that hold memory, with their numbers."""
    if reading.processes is None:
        return UNAVAILABLE
    parts = [
        f"{one_line(process.name or UNAVAILABLE, _LONGEST_NAME)} ({process.pid}) "
        + _of_all(_gib(process.memory_used_bytes), None, "GiB", digits=1)
        for process in reading.processes
    ]
    return ", ".join(parts) or "none"
