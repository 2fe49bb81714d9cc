"""What the devices of a training do meanwhile, read by a thread and looked at by the training."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import lightning.pytorch as L

from gpuopt.callbacks.step_energy import StepEnergy
from gpuopt.hardware import Device, DeviceReading
from gpuopt.telemetry import Sample, Sampler, Subscription

__all__ = ["DeviceStats", "devices_of"]

_GIB = 2**30
_MEANS: dict[str, Callable[[DeviceReading], float | None]] = {
    "utilisation_ratio": lambda reading: reading.utilisation_ratio,
    "memory_utilisation_ratio": lambda reading: reading.memory_utilisation_ratio,
    "power_w": lambda reading: reading.power_w,
    "temperature_c": lambda reading: reading.temperature_c,
    "memory_temperature_c": lambda reading: reading.memory_temperature_c,
    "sm_clock_mhz": lambda reading: reading.sm_clock_mhz,
}


class DeviceStats:
    """Samples devices and machine from the beginning of a training to its end.

    One process per machine of those that log looks at all the devices on it, so that no two read
    the same card and nothing has to be sent between ranks.

    Args:
        devices: That train on this machine.
        interval_s: Between two samples.
        share: Which share of all samples these devices train, 0 to 1.
    """

    def __init__(self, devices: Sequence[Device], interval_s: float, share: float = 1.0) -> None:
        self._sampler = Sampler(devices, interval_s)
        self._reader: Subscription = self._sampler.subscribe()
        self._energy = StepEnergy(self._sampler, [device.index for device in devices], share)
        self._sampler.start()

    def steps_done(self, began_s: float, ended_s: float, samples: int) -> None:
        """Note a stretch of steps of `samples` samples, on the monotonic clock in seconds."""
        self._energy.add(began_s, ended_s, samples)

    def metrics(self) -> dict[str, float]:
        """Return what the samples since the last call tell: means, the largest memory, sums.

        Joules per sample are those of the newest stretches of steps whose energy is known by now.
        What is unknown is left out.
        """
        samples = self._reader.take_all()
        if not samples:
            return {}
        metrics = _of_host(samples)
        for reading in samples[-1].devices:
            metrics |= _of_device(reading.index, samples)
        joules = self._energy.settle()
        return metrics if joules is None else {**metrics, "energy/joules_per_sample": joules}

    def stop(self) -> None:
        """Take a last sample and end the thread."""
        self._sampler.stop()
        self._energy.settle()

    def summary(self) -> dict[str, object]:
        """Return joules per sample and the seconds of throttling by device; nothing unknown."""
        found: dict[str, object] = {}
        joules, newest = self._energy.joules_per_sample, self._sampler.latest()
        if joules is not None:
            found["joules_per_sample"] = joules
        held = {} if newest is None else newest.throttled_s
        told = {r.index for s in self._sampler.history() for r in s.devices if _tells(r)}
        if told:
            found["throttled_s"] = {
                str(index): {word: round(s, 3) for word, s in held.get(index, {}).items()}
                for index in sorted(told)
            }
        return found


def devices_of(trainer: L.Trainer, devices: Sequence[Device]) -> list[Device]:
    """Keep the devices that a Trainer uses on this machine."""
    used = set(trainer.device_ids)
    return [device for device in devices if device.index in used]


def _tells(reading: DeviceReading) -> bool:
    return reading.throttle_reasons is not None or reading.violation_s is not None


def _of_host(samples: Sequence[Sample]) -> dict[str, float]:
    cpu = _mean(sample.host.cpu_ratio for sample in samples)
    used = _largest(sample.host.memory_used_bytes for sample in samples)
    found = {"host/cpu_ratio": cpu, "host/memory_used_gib": None if used is None else used / _GIB}
    return {name: value for name, value in found.items() if value is not None}


def _of_device(index: int, samples: Sequence[Sample]) -> dict[str, float]:
    readings = [reading for s in samples for reading in s.devices if reading.index == index]
    found = {name: _mean(value(reading) for reading in readings) for name, value in _MEANS.items()}
    used = _largest(reading.memory_used_bytes for reading in readings)
    found["memory_used_gib"] = None if used is None else used / _GIB
    for word, seconds in samples[-1].throttled_s.get(index, {}).items():
        found[f"throttled_{word}_s"] = seconds
    return {f"gpu{index}/{name}": value for name, value in found.items() if value is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
