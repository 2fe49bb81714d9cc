"""What held a GPU's clock down, for how long, what it cost, and what of it is normal."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpuopt.telemetry.sample import Sample

__all__ = ["REASONS", "DeviceThrottling", "ThrottleDiagnosis", "throttling_of"]

REASONS: dict[str, tuple[bool, str]] = {
    "power_cap": (True, "normal under load: the card draws what its power limit allows"),
    "software_thermal": (False, "too warm: more cooling, less dust, a lower power limit"),
    "hardware_thermal": (False, "far too warm, the chip protects itself: see to the cooling now"),
    "hardware_slowdown": (False, "the chip protects itself from heat or from the power supply"),
    "power_brake": (False, "the power supply or the rack asks for less: see to the supply"),
    "board_limit": (True, "normal under load: the board's own limits of current and voltage"),
    "reliability": (True, "normal: the highest voltage at which the chip lasts is reached"),
    "sync_boost": (True, "normal: the clock follows that of another card in its group"),
}
"""By reason, whether it is normal, and what it means."""

_UNKNOWN = (False, "a reason that gpuopt has no words for")
_LEAST_SHARE = 0.01  # of the time: less is no finding
_BUSY_RATIO = 0.5  # utilisation from which the clock says something


@dataclass(frozen=True)
class DeviceThrottling:
    """What was seen of one device.

    Attributes:
        index: In CUDA's order.
        name: Of the device; None when it cannot be read.
        seconds: By reason, for how long it held the clock down.
        watched_s: How long the device was looked at.
        clock_mhz: Median clock while it was busy; None when it never was, or has no clock to read.
        limit_mhz: Highest clock of the device.
        warmest_c: Highest temperature.
        power_w: Median draw while busy.
        power_limit_w: Limit in force.
        busy_share: Share of the looks that found it busy; None when that cannot be read.
    """

    index: int
    name: str | None
    seconds: Mapping[str, float]
    watched_s: float
    clock_mhz: float | None
    limit_mhz: int | None
    warmest_c: float | None
    power_w: float | None
    power_limit_w: float | None
    busy_share: float | None

    @property
    def lost_clock(self) -> float | None:
        """Share of the highest clock that was missing while the device was busy."""
        if self.clock_mhz is None or not self.limit_mhz:
            return None
        return max(0.0, 1.0 - self.clock_mhz / self.limit_mhz)

    def troubles(self) -> list[str]:
        """List the reasons that are not normal and held for a hundredth of the time."""
        least_s = _LEAST_SHARE * self.watched_s
        return [r for r, s in self.seconds.items() if s > least_s and not meaning(r)[0]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        reasons = {
            reason: {"seconds": seconds, "is_normal": meaning(reason)[0]}
            for reason, seconds in self.seconds.items()
        }
        values = {**asdict(self), "lost_clock": self.lost_clock, "reasons": reasons}
        del values["seconds"]
        return values


@dataclass(frozen=True)
class ThrottleDiagnosis:
    """What was seen of all devices.

    Attributes:
        devices: In CUDA's order.
    """

    devices: Sequence[DeviceThrottling]

    @property
    def verdict(self) -> str:
        """Say in one sentence whether something is wrong."""
        wrong = {d.index: d.troubles() for d in self.devices if d.troubles()}
        if wrong:
            first, reasons = next(iter(wrong.items()))
            more = "" if len(wrong) == 1 else f" (and {len(wrong) - 1} more)"
            return f"GPU {first}{more} is held down: {reasons[0]}, {meaning(reasons[0])[1]}."
        if all(not device.busy_share for device in self.devices):
            return "The GPU was idle: nothing can be said of its clock; try load=train."
        if any(device.seconds for device in self.devices):
            return "What holds the clock down is normal."
        return "Nothing holds the clock down."

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"verdict": self.verdict, "devices": [device.as_dict() for device in self.devices]}


def meaning(reason: str) -> tuple[bool, str]:
    """Say whether a reason is normal, and what it means."""
    return REASONS.get(reason, _UNKNOWN)


def throttling_of(samples: Sequence[Sample]) -> ThrottleDiagnosis:
    """Sum up what a sampler has seen.

    Args:
        samples: Oldest first, at least one.
    """
    watched_s = samples[-1].time_s - samples[0].time_s
    devices = []
    for position, last in enumerate(samples[-1].devices):
        readings = [sample.devices[position] for sample in samples]
        shares = [r.utilisation_ratio for r in readings if r.utilisation_ratio is not None]
        busy = [r for r in readings if (r.utilisation_ratio or 0.0) >= _BUSY_RATIO]
        clocks = [r.sm_clock_mhz for r in busy if r.sm_clock_mhz is not None]
        powers = [r.power_w for r in busy if r.power_w is not None]
        warmth = [r.temperature_c for r in readings if r.temperature_c is not None]
        before = samples[0].throttled_s.get(last.index, {})
        after = samples[-1].throttled_s.get(last.index, {})
        limits = [r.sm_clock_limit_mhz for r in readings if r.sm_clock_limit_mhz]
        devices.append(
            DeviceThrottling(
                index=last.index,
                name=next((r.name for r in readings if r.name is not None), None),
                seconds={word: s - before.get(word, 0.0) for word, s in after.items()},
                watched_s=watched_s,
                clock_mhz=statistics.median(clocks) if clocks else None,
                limit_mhz=limits[-1] if limits else None,
                warmest_c=max(warmth, default=None),
                power_w=statistics.median(powers) if powers else None,
                power_limit_w=last.power_limit_w,
                busy_share=len(busy) / len(shares) if shares else None,
            )
        )
    return ThrottleDiagnosis(devices)
