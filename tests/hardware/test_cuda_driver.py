"""The driver's library is replaced by one of Python functions with the same signatures."""

import ctypes

import pytest

from gpuopt.hardware import driver_devices, profile_from_device

CARDS = [
    (
        b"NVIDIA GeForce RTX 3060",
        12288 * 2**20,
        {16: 28, 75: 8, 76: 6, 13: 1_777_000, 36: 7_501_000, 37: 192},
    ),
    (b"NVIDIA H200", 143771 * 2**20, {16: 132, 75: 9, 76: 0}),
]


class Library:
    """Counts handles from 40, so that an index taken for a handle is seen."""

    def __init__(self, fails=()):
        self.fails = fails

    def cuInit(self, flags):
        return 100 if "init" in self.fails else 0

    def cuDeviceGetCount(self, count):
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = len(CARDS)
        return 3 if "count" in self.fails else 0

    def cuDeviceGet(self, handle, index):
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_int))[0] = 40 + index
        return 101 if index in self.fails else 0

    def cuDeviceGetName(self, name, length, handle):
        name.value = CARDS[handle.value - 40][0]
        assert length > len(name.value)
        return 0

    def cuDeviceTotalMem_v2(self, size, handle):
        ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t))[0] = CARDS[handle.value - 40][1]
        return 0

    def cuDeviceGetUuid_v2(self, text, handle):
        text[:] = bytes([handle.value, *range(15)])
        return 101 if "uuid" in self.fails else 0

    def cuDeviceGetAttribute(self, value, which, handle):
        known = CARDS[handle.value - 40][2]
        if which not in known:
            return 1
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = known[which]
        return 0


def test_the_devices_are_listed_with_what_a_profile_needs():
    first, second = driver_devices(Library())
    assert (first.index, first.name, first.memory_mib) == (0, "NVIDIA GeForce RTX 3060", 12288)
    assert (second.index, second.name) == (1, "NVIDIA H200")
    assert first.uuid == "28000102-0304-0506-0708-090a0b0c0d0e"
    gpu = profile_from_device(first)
    assert (gpu.compute_capability, gpu.sm_count, gpu.precision) == ("8.6", 28, "bf16")
    assert gpu.fp32_tflops == pytest.approx(12.7, rel=0.01)
    assert gpu.memory_bandwidth_gb_per_s == pytest.approx(360, rel=0.01)
    unknown = profile_from_device(second)
    assert (unknown.fp32_tflops, unknown.memory_bandwidth_gb_per_s) == (None, None)


@pytest.mark.parametrize("stage", ["init", "count"])
def test_a_driver_that_fails_has_no_devices(stage):
    assert driver_devices(Library(fails=(stage,))) == []


def test_a_device_that_fails_is_left_out():
    (device,) = driver_devices(Library(fails=(0,)))
    assert device.index == 1


def test_a_driver_that_tells_no_uuid_has_its_devices(monkeypatch):
    assert [device.uuid for device in driver_devices(Library(fails=("uuid",)))] == [None, None]
    monkeypatch.delattr(Library, "cuDeviceGetUuid_v2")
    assert [device.uuid for device in driver_devices(Library())] == [None, None]


def test_a_machine_without_the_library_has_no_devices(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert driver_devices() == []


@pytest.mark.gpu
def test_it_agrees_with_torch():
    import torch

    devices = driver_devices()
    assert len(devices) == torch.cuda.device_count()
    for device in devices:
        known = torch.cuda.get_device_properties(device.index)
        assert (device.name, device.total_memory) == (known.name, known.total_memory)
        assert device.uuid == str(known.uuid)
        assert device.multi_processor_count == known.multi_processor_count
        assert (device.major, device.minor) == (known.major, known.minor)
