"""Metrics as Prometheus' own parsers read them: base units, counters, nothing that is unknown."""

import re

import prometheus_client.openmetrics.parser
import prometheus_client.parser
import pytest

from gpuopt.telemetry import Sample
from gpuopt.telemetry.prometheus import exposition
from tests.telemetry.samples import FULL, card, sample

OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PARSERS = {
    "text/plain": prometheus_client.parser,
    OPEN: prometheus_client.openmetrics.parser,
}
# https://prometheus.io/docs/practices/naming/#base-units, and what has none.
UNITS = ("ratio", "bytes", "watts", "celsius", "hertz", "joules", "seconds", "bytes_per_second")
WITHOUT_UNIT = {
    "gpu_ecc_errors",
    "gpu_pcie_link_generation",
    "gpu_pcie_link_lanes",
    "gpu_processes",
    "gpuopt_training_metric",
}


def parse(taken, accept=OPEN):
    content, kind = exposition(lambda: taken, accept)
    assert kind.startswith(accept.partition(";")[0])
    families = PARSERS[accept].text_string_to_metric_families(content.decode())
    return {family.name: family for family in families}


@pytest.mark.parametrize("accept", PARSERS)
def test_the_official_parsers_read_every_value(accept):
    families = parse(sample(), accept)
    values = {s.name: s.value for family in families.values() for s in family.samples}
    assert values["gpu_utilization_ratio"] == 0.75
    assert values["gpu_memory_used_bytes"] == 60 * 2**30
    assert values["gpu_sm_clock_hertz"] == 1.83e9
    assert values["gpu_energy_joules_total"] == 7200
    assert values["gpu_throttle_seconds_total"] == 12
    assert values["gpu_ecc_errors_total"] == 1
    assert values["host_cpu_utilization_ratio"] == 0.25
    assert values["gpuopt_training_metric"] == 0.5
    assert values["gpuopt_sample_timestamp_seconds"] == 1_700_000_000
    assert len(families) == 27


def test_labels_tell_the_device_and_the_reason():
    families = parse(sample(0, card(**FULL), card(1, **{**FULL, "uuid": "GPU-1"})))
    (throttled,) = families["gpu_throttle_seconds"].samples
    device = {"gpu": "0", "uuid": FULL["uuid"], "name": FULL["name"]}
    assert throttled.labels == {**device, "reason": "power_cap"}
    found = [s.labels["gpu"] for s in families["gpu_power_watts"].samples]
    assert found == ["0", "1"]
    kinds = [s.labels["kind"] for s in families["gpu_ecc_errors"].samples]
    assert kinds == ["corrected", "uncorrected"] * 2


def test_names_follow_the_rules():
    for name, family in parse(sample()).items():
        assert re.fullmatch(r"(gpu|host|gpuopt)_[a-z_]+", name)
        assert name in WITHOUT_UNIT or name.endswith(UNITS), name
        assert family.documentation
        is_counter = name in ("gpu_energy_joules", "gpu_throttle_seconds", "gpu_ecc_errors")
        assert family.type == ("counter" if is_counter else "gauge")


def test_what_is_unavailable_is_not_there():
    taken = Sample(5.0, (card(power_w=0.0),))
    assert parse(taken).keys() == {"gpu_power_watts", "gpuopt_sample_timestamp_seconds"}
    assert parse(None) == {}


def test_names_of_others_break_nothing():
    name = 'a"b\\c\nd{}'
    taken = sample(0, card(name=name, power_w=1.0), training={name: 2.0})
    for accept in PARSERS:
        families = parse(taken, accept)
        assert families["gpu_power_watts"].samples[0].labels["name"] == name
        assert families["gpuopt_training_metric"].samples[0].labels["metric"] == name
