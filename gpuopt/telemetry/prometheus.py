"""The newest sample as metrics for Prometheus, in base units and under its naming rules.

What is unavailable is not exported, never zero. Counters begin with the monitor and start anew
with it, as Prometheus expects of counters.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gpuopt.hardware import DeviceReading
from gpuopt.telemetry.sample import Sample

__all__ = ["SampleCollector", "exposition"]

_MEGA = 1_000_000
_DEVICE_LABELS = ("gpu", "uuid", "name")


class _Gauge(NamedTuple):
    """A metric of a device: its name with unit, what it says, and the field times a factor."""

    name: str
    help: str
    field: str
    factor: float = 1


_GAUGES = (
    _Gauge("utilization_ratio", "Share of time in which a kernel ran", "utilisation_ratio"),
    _Gauge(
        "memory_utilization_ratio",
        "Share of time in which the memory was read or written",
        "memory_utilisation_ratio",
    ),
    _Gauge("encoder_utilization_ratio", "Share of time of the video encoder", "encoder_ratio"),
    _Gauge("decoder_utilization_ratio", "Share of time of the video decoder", "decoder_ratio"),
    _Gauge("memory_used_bytes", "Memory used by all processes", "memory_used_bytes"),
    _Gauge("memory_size_bytes", "All memory", "memory_total_bytes"),
    _Gauge("power_watts", "Power draw", "power_w"),
    _Gauge("power_limit_watts", "Power limit in force", "power_limit_w"),
    _Gauge("temperature_celsius", "Temperature of the chip", "temperature_c"),
    _Gauge("memory_temperature_celsius", "Temperature of the memory", "memory_temperature_c"),
    _Gauge("fan_speed_ratio", "Speed of the fans, of the most", "fan_ratio"),
    _Gauge("sm_clock_hertz", "Clock of the multiprocessors", "sm_clock_mhz", _MEGA),
    _Gauge("sm_clock_limit_hertz", "Highest clock of these", "sm_clock_limit_mhz", _MEGA),
    _Gauge("memory_clock_hertz", "Clock of the memory", "memory_clock_mhz", _MEGA),
    _Gauge("pcie_link_generation", "Generation of the link", "pcie_generation"),
    _Gauge("pcie_link_lanes", "Lanes of the link", "pcie_width"),
    _Gauge(
        "pcie_received_bytes_per_second", "Over the link, to the GPU", "pcie_received_bytes_per_s"
    ),
    _Gauge("pcie_sent_bytes_per_second", "Over the link, from the GPU", "pcie_sent_bytes_per_s"),
)


class SampleCollector(Collector):
    """Makes the metrics when it is asked for them, of the newest sample.

    Args:
        latest: Returns it; None before the first.
    """

    def __init__(self, latest: Callable[[], Sample | None]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Yield the families of metrics that have a value."""
        sample = self._latest()
        if sample is None:
            return
        yield from (family for family in _families(sample) if family.samples)

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering asks for no sample."""
        return []


def exposition(latest: Callable[[], Sample | None], accept: str) -> tuple[bytes, str]:
    """Write the metrics of the newest sample.

    Args:
        latest: Returns it; None before the first.
        accept: The header of that name, which asks for OpenMetrics or the older text.

    Returns:
        The content and its type.
    """
    registry = CollectorRegistry()
    registry.register(SampleCollector(latest))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _families(sample: Sample) -> Iterator[Metric]:
    for gauge in _GAUGES:
        family = GaugeMetricFamily(f"gpu_{gauge.name}", gauge.help, labels=_DEVICE_LABELS)
        for reading in sample.devices:
            value = getattr(reading, gauge.field)
            if value is not None:
                family.add_metric(_labels(reading), value * gauge.factor)
        yield family
    yield _processes(sample)
    yield from _counters(sample)
    yield from _of_machine(sample)


def _counters(sample: Sample) -> Iterator[Metric]:
    energy = CounterMetricFamily("gpu_energy_joules", "Energy used", labels=_DEVICE_LABELS)
    throttled = CounterMetricFamily(
        "gpu_throttle_seconds",
        "Time for which each reason held the clock down",
        labels=(*_DEVICE_LABELS, "reason"),
    )
    errors = CounterMetricFamily(
        "gpu_ecc_errors",
        "Memory errors since the driver was loaded",
        labels=(*_DEVICE_LABELS, "kind"),
    )
    for reading in sample.devices:
        labels = _labels(reading)
        if reading.index in sample.used_j:
            energy.add_metric(labels, sample.used_j[reading.index])
        for reason, seconds in sample.throttled_s.get(reading.index, {}).items():
            throttled.add_metric([*labels, reason], seconds)
        kinds = {"corrected": reading.ecc_corrected, "uncorrected": reading.ecc_uncorrected}
        for kind, count in kinds.items():
            if count is not None:
                errors.add_metric([*labels, kind], count)
    yield from (energy, throttled, errors)


def _processes(sample: Sample) -> Metric:
    family = GaugeMetricFamily("gpu_processes", "Processes that hold memory", labels=_DEVICE_LABELS)
    for reading in sample.devices:
        if reading.processes is not None:
            family.add_metric(_labels(reading), len(reading.processes))
    return family


def _of_machine(sample: Sample) -> Iterator[Metric]:
    host = sample.host
    for name, text, value in (
        ("host_cpu_utilization_ratio", "Share of the processors that is busy", host.cpu_ratio),
        ("host_memory_used_bytes", "Memory used of the machine", host.memory_used_bytes),
        ("host_memory_size_bytes", "All memory of the machine", host.memory_total_bytes),
        ("gpuopt_sample_timestamp_seconds", "When these values were read", sample.time_s),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    training = GaugeMetricFamily(
        "gpuopt_training_metric", "Newest metrics of the run that is watched", labels=("metric",)
    )
    for name, value in sample.training.items():
        training.add_metric([name], value)
    yield training


def _labels(reading: DeviceReading) -> list[str]:
    return [str(reading.index), reading.uuid or "", reading.name or ""]
