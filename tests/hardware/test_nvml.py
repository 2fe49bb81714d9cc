import logging
import sys
from types import SimpleNamespace

import pytest

from gpuopt.hardware import DeviceProcess, cuda_devices, driver_devices, visible_devices
from gpuopt.hardware.nvml import NvmlDevice

CODES = {"Not Supported": 3, "No Permission": 4, "Function Not Found": 13, "GPU is lost": 15}
# Field values: the number, the type of the value and the value.
FIELDS = {
    82: (1, 72),
    197: (3, 5_000),
    198: (3, 9_000),
    74: (3, 2_500_000_000),
    76: (3, 0),
    77: (3, 1_000_000_000),
    79: (3, 0),
    269: (3, 500_000_000),
    270: (3, 0),
    271: (3, 0),
}
MEMBERS = {1: "uiVal", 3: "ullVal"}


class FakeError(Exception):
    @property
    def value(self):
        return CODES.get(str(self), 999)


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
        self.asked = []
        self.fields = dict(FIELDS)

    def nvmlInit(self):
        if self.init_error:
            raise FakeError(self.init_error)

    def nvmlDeviceGetCount(self):
        return self._answer("count", 2)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._answer("handle", self.uuids[index])

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.uuids:
            raise FakeError("Not Found")
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):
        return self._answer("parent", "GPU-aaaa")

    def _answer(self, query, value, handle=None):
        self.asked.append((query, handle) if handle else query)
        cause = self.failing.get(query, self.failing.get("*"))
        if cause:
            raise FakeError(cause)
        return value

    def nvmlDeviceGetName(self, handle):
        return self._answer("name", b"NVIDIA H200")

    def nvmlDeviceGetUUID(self, handle):
        return self._answer("uuid", handle)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._answer("memory", SimpleNamespace(total=100, used=40), handle)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._answer("rates", SimpleNamespace(gpu=50, memory=25))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer("power", 350_500, handle)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._answer("limit", 700_000)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._answer("temperature", 61, handle)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._answer("clock", {1: 1980, 2: 3201}[kind])

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("energy", 5_000)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("clocks", 0x01 | 0x04 | 0x40)

    def nvmlDeviceGetEncoderUtilization(self, handle):
        return self._answer("encoder", [30, 167_000])

    def nvmlDeviceGetDecoderUtilization(self, handle):
        return self._answer("decoder", [60, 167_000])

    def nvmlDeviceGetFieldValues(self, handle, numbers):
        def answer(number):
            kind, value = self.fields.get(number, (None, None))
            if kind is None:
                return SimpleNamespace(fieldId=number, nvmlReturn=3)
            return SimpleNamespace(
                fieldId=number,
                nvmlReturn=0,
                valueType=kind,
                value=SimpleNamespace(**{MEMBERS[kind]: value}),
            )

        return self._answer("fields", [answer(number) for number in numbers], numbers)

    def nvmlDeviceGetFanSpeed(self, handle):
        return self._answer("fan", 45)

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return self._answer("clock limit", {1: 2100}[kind])

    def nvmlDeviceGetTotalEccErrors(self, handle, kind, counter):
        assert counter == 0
        return self._answer(f"ecc{kind}", {0: 7, 1: 2}[kind])

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle):
        return self._answer("generation", 5)

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle):
        return self._answer("width", 16)

    def nvmlDeviceGetPcieThroughput(self, handle, way):
        return self._answer("traffic", {0: 3, 1: 4}[way])

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        training = SimpleNamespace(pid=7, usedGpuMemory=30)
        return self._answer("processes", [training, SimpleNamespace(pid=8, usedGpuMemory=60)])

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        screen = SimpleNamespace(pid=9, usedGpuMemory=None)
        return self._answer("graphics", [screen, SimpleNamespace(pid=8, usedGpuMemory=60)])

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle):
        return self._answer("mps", [])

    def nvmlSystemGetProcessName(self, pid):
        if pid == 9:
            raise FakeError("Not Found")
        return self._answer("process name", b"/usr/bin/python train.py --token=secret")


# What is only there with details, or only from the second reading on.
DETAILS = {"processes"}
# Many cards lack them, which is no news.
RARE = {"encoder", "decoder", "fields", "fan", "clock limit", "ecc0", "ecc1"}
RARE |= {"generation", "width"}
TRAFFIC = {"pcie_received_bytes_per_s", "pcie_sent_bytes_per_s"}


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
    assert (reading.encoder_ratio, reading.decoder_ratio) == (0.3, 0.6)
    assert (reading.memory_temperature_c, reading.fan_ratio) == (72.0, 0.45)
    assert reading.sm_clock_limit_mhz == 2100
    assert reading.violation_s == {
        "power_cap": 2.5,
        "sync_boost": 0.0,
        "board_limit": 1.0,
        "reliability": 0.0,
        "software_thermal": 0.5,
        "hardware_thermal": 0.0,
        "power_brake": 0.0,
    }
    assert (reading.ecc_corrected, reading.ecc_uncorrected) == (7, 2)
    assert (reading.pcie_generation, reading.pcie_width) == (5, 16)
    assert not warnings_in(caplog)


def test_a_zero_that_no_sensor_can_mean_is_unavailable():
    nvml = FakeNvml()
    nvml.fields[82] = (1, 0)
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 0
    (device,) = cuda_devices(nvml, ["aaaa"])
    reading = device.read()
    assert (reading.memory_temperature_c, reading.energy_j) == (None, None)


def test_traffic_comes_from_counters_where_the_card_has_them():
    nvml, now = FakeNvml(), [100.0]
    device = NvmlDevice(0, "GPU-aaaa", nvml, details=True, clock=lambda: now[0])
    first = device.read()
    assert {key for key, value in vars(first).items() if value is None} == TRAFFIC
    now[0] = 102.0
    nvml.fields |= {197: (3, 5_500), 198: (3, 10_000)}
    second = device.read()
    assert (second.pcie_sent_bytes_per_s, second.pcie_received_bytes_per_s) == (250.0, 500.0)
    now[0] = 103.0
    nvml.fields[197] = (3, 100)  # it was full, and starts again
    assert device.read().pcie_sent_bytes_per_s is None
    assert "traffic" not in nvml.asked


def test_traffic_without_counters_is_measured_seldom_and_only_for_details():
    nvml, now = FakeNvml(), [0.0]
    for number in (197, 198):
        del nvml.fields[number]
    device = NvmlDevice(0, "GPU-aaaa", nvml, details=True, clock=lambda: now[0])
    for _ in range(12):
        reading = device.read()
        assert (reading.pcie_sent_bytes_per_s, reading.pcie_received_bytes_per_s) == (3e3, 4e3)
        now[0] += 1.0
    assert nvml.asked.count("traffic") == 2 * 2
    quick = FakeNvml()
    quick.fields = nvml.fields
    assert cuda_devices(quick, ["aaaa"])[0].read().pcie_sent_bytes_per_s is None
    assert not {"traffic", "processes", "graphics", "mps"} & {*map(str, quick.asked)}


def test_processes_are_listed_once_with_their_program_alone():
    device = NvmlDevice(0, "GPU-aaaa", FakeNvml(), details=True)
    assert device.read().processes == [
        DeviceProcess(8, "python", 60),
        DeviceProcess(7, "python", 30),
        DeviceProcess(9, None, None),
    ]


def test_the_names_of_processes_that_stay_are_asked_once():
    nvml, now = FakeNvml(), [0.0]
    device = NvmlDevice(0, "GPU-aaaa", nvml, details=True, clock=lambda: now[0])
    for _ in range(4):
        device.read()
        now[0] += 60.0
    assert nvml.asked.count("processes") == 4
    assert nvml.asked.count("process name") == 2


def test_processes_that_cannot_be_listed_are_not_none_at_all(caplog):
    nvml = FakeNvml(dict.fromkeys(("processes", "graphics", "mps"), "No Permission"))
    assert NvmlDevice(0, "GPU-aaaa", nvml, details=True).read().processes is None
    assert len(warnings_in(caplog)) == 1
    nvml = FakeNvml({"graphics": "Not Supported", "mps": "Not Supported"})
    assert len(NvmlDevice(0, "GPU-aaaa", nvml, details=True).read().processes) == 2


def test_what_hardly_changes_is_read_every_ten_seconds():
    nvml, now = FakeNvml(), [0.0]
    device = NvmlDevice(0, "GPU-aaaa", nvml, clock=lambda: now[0])
    for _ in range(21):
        assert device.read().fan_ratio == 0.45
        now[0] += 1.0
    assert nvml.asked.count("fan") == 3
    assert len([name for name in nvml.asked if name == ("power", "GPU-aaaa")]) == 21


def test_a_slice_has_its_cards_temperature_and_not_its_cards_power():
    nvml = FakeNvml({"power": "Not Supported", "energy": "Not Supported"})
    (device,) = cuda_devices(nvml, ["cccc"])
    reading = device.read()
    assert (reading.temperature_c, reading.power_w, reading.energy_j) == (61.0, None, None)
    assert ("temperature", "GPU-aaaa") in nvml.asked
    assert ("memory", "MIG-cccc") in nvml.asked
    assert ("power", "MIG-cccc") in nvml.asked
    lone = FakeNvml({"parent": "Not Supported"})
    assert cuda_devices(lone, ["cccc"])[0].read().temperature_c == 61.0
    assert ("temperature", "MIG-cccc") in lone.asked


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
        ("encoder", {"encoder_ratio"}),
        ("decoder", {"decoder_ratio"}),
        ("fields", {"memory_temperature_c", "violation_s", *TRAFFIC}),
        ("fan", {"fan_ratio"}),
        ("clock limit", {"sm_clock_limit_mhz"}),
        ("ecc0", {"ecc_corrected"}),
        ("ecc1", {"ecc_uncorrected"}),
        ("generation", {"pcie_generation"}),
        ("width", {"pcie_width"}),
    ],
)
def test_a_field_that_is_not_supported_is_none_and_the_others_stay(query, fields, caplog):
    (device,) = cuda_devices(FakeNvml({query: "Not Supported"}), ["aaaa"])
    device.read()
    reading = device.read()
    missing = {key for key, value in vars(reading).items() if value is None}
    assert missing - DETAILS == fields
    assert len(warnings_in(caplog)) == (0 if query in RARE else 1)


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


def test_what_a_card_never_has_is_not_asked_for_again():
    nvml = FakeNvml({"fan": "Not Supported", "power": "Not Supported", "rates": "Unknown Error"})
    del nvml.fields[82]
    (device,) = cuda_devices(nvml, ["aaaa"])
    for _ in range(3):
        device.read()
    assert nvml.asked.count(("power", "GPU-aaaa")) == 1
    assert nvml.asked.count("rates") == 3
    asked = [numbers for name, *numbers in map(list, nvml.asked) if name == "fields"]
    assert [82 in numbers[0] for numbers in asked] == [True, False, False]


def test_a_permission_that_is_refused_is_told_once_and_the_rest_stays(caplog):
    (device,) = cuda_devices(FakeNvml({"ecc0": "No Permission", "fan": "No Permission"}), ["aaaa"])
    for _ in range(2):
        assert device.read().ecc_corrected is None
        assert device.read().power_w == 350.5
    (warning,) = warnings_in(caplog)
    assert "No Permission" in warning


def test_who_only_watches_sees_cudas_devices_with_details_and_without_torch():
    (device,) = visible_devices(FakeNvml(), ["bbbb"])
    reading = device.read()
    assert (device.index, reading.uuid) == (0, "GPU-bbbb")
    assert len(reading.processes) == 3


def test_a_machine_without_cudas_driver_shows_what_nvml_knows(monkeypatch, caplog):
    monkeypatch.setattr("gpuopt.hardware.nvml_devices.driver_devices", list)
    devices = visible_devices(FakeNvml())
    assert [device.read().uuid for device in devices] == ["GPU-aaaa", "GPU-bbbb"]
    assert not warnings_in(caplog)
    assert visible_devices(FakeNvml({"handle": "GPU is lost"})) == []
    assert visible_devices(FakeNvml(init_error="Driver Not Loaded")) == []
    assert len(warnings_in(caplog)) == 2


@pytest.mark.gpu
def test_a_real_card_tells_what_it_does():
    devices = visible_devices()
    if not devices:
        pytest.skip("there is a GPU, and NVML does not see it, as under WSL")
    assert [d.index for d in devices] == [d.index for d in driver_devices()]
    for device in devices:
        first, second = device.read(), device.read()
        assert first.memory_total_bytes > first.memory_used_bytes > 0
        assert 0 < first.sm_clock_mhz <= 1.1 * first.sm_clock_limit_mhz
        assert second.energy_j >= first.energy_j
        assert first.processes is not None


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
    assert len(names) > 25
    assert all(hasattr(pynvml, name) for name in names)
    constants = ("NVML_TEMPERATURE_GPU", "NVML_CLOCK_SM", "NVML_CLOCK_MEM")
    assert all(getattr(pynvml, name) == getattr(FakeNvml, name) for name in constants)
