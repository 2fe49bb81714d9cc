import logging
from types import SimpleNamespace

from gpuopt.hardware import DriverDevice, Host, look_at_machine

HOST = Host("a CPU", 2, 4, 2**30)
DEVICES = [
    DriverDevice(0, "NVIDIA H200", 143771 * 2**20, 132, 9, 0, "a"),
    DriverDevice(1, "NVIDIA H200", 143771 * 2**20, 132, 9, 0, None),  # an old driver
]


class FakeError(Exception):
    pass


class Nvml:
    """pynvml with one card that tells next to nothing."""

    NVMLError = FakeError
    NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = NVML_CLOCK_MEM = 0

    def __init__(self, starts=True):
        self.starts = starts

    def nvmlInit(self):
        if not self.starts:
            raise FakeError("Driver/library version mismatch")

    def nvmlSystemGetDriverVersion(self):
        return b"580.65.06"

    def nvmlSystemGetCudaDriverVersion(self):
        return 13010

    def nvmlDeviceGetCount(self):
        return 4

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=100, used=40)

    def nvmlDeviceGetEccMode(self, handle):
        raise FakeError("Not Supported")


def test_what_cuda_and_nvml_tell_is_put_together(caplog):
    with caplog.at_level(logging.WARNING):
        machine = look_at_machine(Nvml(), DEVICES, HOST)
    assert (machine.driver, machine.driver_cuda) == ("580.65.06", "13.1")
    assert machine.cards_of_driver == 4
    first, second = machine.cards
    assert (first.used_bytes, first.capability) == (40, "9.0")
    assert first.facts.is_ecc_on is None
    assert second.used_bytes is None  # without identity NVML cannot be asked
    assert caplog.records == []  # fields that are missing read n/a, which says enough
    values = machine.as_dict()
    assert values["cards"][0]["name"] == "NVIDIA H200"
    assert values["host"]["cpus"] == 2


def test_a_driver_that_does_not_match_leaves_what_cuda_tells():
    machine = look_at_machine(Nvml(starts=False), DEVICES, HOST)
    assert [card.device.name for card in machine.cards] == ["NVIDIA H200"] * 2
    assert (machine.driver, machine.cards_of_driver) == (None, None)


def test_this_machine_can_be_looked_at():
    machine = look_at_machine()
    assert machine.host.cpus >= 1
    assert len(machine.links) == len(machine.cards) * (len(machine.cards) - 1) // 2
