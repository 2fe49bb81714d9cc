import logging
import sys
from types import SimpleNamespace

import pytest

from gpuopt.hardware import cuda_devices


class FakeError(Exception):
    pass


class FakeNvml:
    """pynvml with two GPUs in NVML's order; each query can be made to fail."""

    NVMLError = FakeError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    uuids = ("GPU-aaaa", "GPU-bbbb", "MIG-cccc")

    def __init__(self, failing=None, init_error=None):
        self.failing = failing or {}
        self.init_error = init_error

    def nvmlInit(self):
        if self.init_error:
            raise FakeError(self.init_error)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.uuids:
            raise FakeError("Not Found")
        return uuid

    def _answer(self, query, value):
        cause = self.failing.get(query, self.failing.get("*"))
        if cause:
            raise FakeError(cause)
        return value

    def nvmlDeviceGetName(self, handle):
        return self._answer("name", b"NVIDIA H200")

    def nvmlDeviceGetUUID(self, handle):
        return self._answer("uuid", handle)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._answer("memory", SimpleNamespace(total=100, used=40))

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._answer("rates", SimpleNamespace(gpu=50, memory=25))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer("power", 350_500)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._answer("limit", 700_000)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._answer("temperature", 61)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._answer("clock", {1: 1980, 2: 3201}[kind])

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("energy", 5_000)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("clocks", 0x01 | 0x04 | 0x40)


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_every_field_is_read_in_the_units_of_its_name(caplog):
    (device,) = cuda_devices(FakeNvml(), ["aaaa"])
    reading = device.read()
    assert (reading.index, reading.name, reading.uuid) == (0, "NVIDIA H200", "GPU-aaaa")
    assert (reading.memory_total_bytes, reading.memory_used_bytes) == (100, 40)
    assert (reading.utilisation_ratio, reading.memory_utilisation_ratio) == (0.5, 0.25)
    assert (reading.power_w, reading.power_limit_w, reading.energy_j) == (350.5, 700.0, 5.0)
    assert reading.temperature_c == 61
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz) == (1980, 3201)
    assert reading.throttle_reasons == ["power_cap", "hardware_thermal"]
    assert not warnings_in(caplog)


def test_devices_come_in_cudas_order_with_or_without_prefix_and_mig_slices():
    devices = cuda_devices(FakeNvml(), ["cccc", "GPU-bbbb", "aaaa"])
    assert [d.read().uuid for d in devices] == ["MIG-cccc", "GPU-bbbb", "GPU-aaaa"]
    assert [d.index for d in devices] == [0, 1, 2]


def test_a_gpu_that_nvml_does_not_know_is_left_out_with_a_warning(caplog):
    devices = cuda_devices(FakeNvml(), ["zzzz", "aaaa"])
    assert [d.index for d in devices] == [1]
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("memory", {"memory_total_bytes", "memory_used_bytes"}),
        ("rates", {"utilisation_ratio", "memory_utilisation_ratio"}),
        ("power", {"power_w"}),
        ("limit", {"power_limit_w"}),
        ("temperature", {"temperature_c"}),
        ("clock", {"sm_clock_mhz", "memory_clock_mhz"}),
        ("energy", {"energy_j"}),
        ("clocks", {"throttle_reasons"}),
        ("name", {"name"}),
        ("uuid", {"uuid"}),
    ],
)
def test_a_field_that_is_not_supported_is_none_and_the_others_stay(query, fields, caplog):
    (device,) = cuda_devices(FakeNvml({query: "Not Supported"}), ["aaaa"])
    device.read()
    reading = device.read()
    assert {key for key, value in vars(reading).items() if value is None} == fields
    assert len(warnings_in(caplog)) == 1


def test_a_gpu_lost_in_mid_run_warns_once_per_cause_and_comes_back(caplog):
    nvml = FakeNvml()
    (device,) = cuda_devices(nvml, ["aaaa"])
    before = device.read()
    nvml.failing = {"*": "GPU is lost"}
    for _ in range(3):
        lost = device.read()
    measured = {k: v for k, v in vars(lost).items() if k not in ("index", "name", "uuid")}
    assert set(measured.values()) == {None}
    assert lost.name == before.name
    assert len(warnings_in(caplog)) == 1
    assert "GPU is lost" in warnings_in(caplog)[0]
    nvml.failing = {"energy": "Timeout"}
    assert device.read().power_w == before.power_w
    assert len(warnings_in(caplog)) == 2


def test_a_library_of_another_version_than_the_driver_gives_no_devices(caplog):
    assert cuda_devices(FakeNvml(init_error="Driver/library version mismatch"), ["aaaa"]) == []
    assert "version mismatch" in warnings_in(caplog)[0]


def test_a_missing_library_gives_no_devices(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert cuda_devices(uuids=["aaaa"]) == []
    assert "nvidia-ml-py is not installed" in warnings_in(caplog)[0]


def test_a_machine_without_cuda_gives_no_devices_and_no_warning(caplog):
    assert cuda_devices(FakeNvml(init_error="must not be asked"), []) == []
    assert not warnings_in(caplog)


def test_old_libraries_and_missing_queries_do_not_stop_a_reading(monkeypatch, caplog):
    old_name = "nvmlDeviceGetCurrentClocksThrottleReasons"
    monkeypatch.setattr(FakeNvml, old_name, lambda self, handle: 0x08, raising=False)
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetCurrentClocksEventReasons")
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetTotalEnergyConsumption")
    reading = cuda_devices(FakeNvml(), ["aaaa"])[0].read()
    assert reading.throttle_reasons == ["hardware_slowdown"]
    assert reading.energy_j is None
    assert len(warnings_in(caplog)) == 1


def test_the_real_library_has_every_query_that_the_fake_has():
    import pynvml

    names = [name for name in vars(FakeNvml) if name.lower().startswith("nvml")]
    assert len(names) > 12
    assert all(hasattr(pynvml, name) for name in names)
    constants = ("NVML_TEMPERATURE_GPU", "NVML_CLOCK_SM", "NVML_CLOCK_MEM")
    assert all(getattr(pynvml, name) == getattr(FakeNvml, name) for name in constants)
