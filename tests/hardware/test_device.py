import dataclasses

from gpuopt.hardware import Device, DeviceReading, NullDevice


def test_the_null_device_knows_nothing_and_never_says_zero():
    device: Device = NullDevice()
    reading = device.read()
    measured = dataclasses.asdict(reading)
    assert (measured.pop("index"), measured.pop("name")) == (0, "cpu")
    assert set(measured.values()) == {None}
    assert reading == DeviceReading(index=device.index, name="cpu")
