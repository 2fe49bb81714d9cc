import pytest

from gpuopt.callbacks.step_energy import StepEnergy
from gpuopt.hardware import DeviceReading
from gpuopt.telemetry import HostReading, Sampler


class Card:
    """Draws 100 W by its counter."""

    def __init__(self, now, index=0, is_telling=True):
        self.index, self._now, self._is_telling = index, now, is_telling

    def read(self):
        return DeviceReading(
            self.index, energy_j=100.0 * self._now[0] if self._is_telling else None
        )


@pytest.fixture
def now():
    return [0.0]


def sampler_of(now, *cards):
    return Sampler(cards, read_host=HostReading, clock=lambda: now[0])


def at(now, moment_s, sampler):
    now[0] = moment_s
    sampler.take()


def test_only_the_stretches_of_steps_count(now):
    """Between them lies a validation, whose energy belongs to no training sample."""
    sampler = sampler_of(now, Card(now))
    energy = StepEnergy(sampler, [0], share=1.0)
    assert energy.settle() is None
    at(now, 0.0, sampler)
    energy.add(1.0, 3.0, 50)
    energy.add(8.0, 9.0, 50)
    at(now, 10.0, sampler)
    assert energy.settle() == pytest.approx(3.0)
    assert (energy.used_j, energy.samples) == pytest.approx((300.0, 100.0))
    assert energy.settle() is None
    assert energy.joules_per_sample == pytest.approx(3.0)


def test_a_stretch_waits_for_the_reading_after_its_end(now):
    sampler = sampler_of(now, Card(now))
    energy = StepEnergy(sampler, [0], share=1.0)
    at(now, 0.0, sampler)
    energy.add(0.0, 1.0, 10)
    energy.add(1.0, 3.0, 10)
    at(now, 2.0, sampler)
    assert energy.settle() == pytest.approx(10.0)
    at(now, 4.0, sampler)
    assert energy.settle() == pytest.approx(20.0)
    assert energy.joules_per_sample == pytest.approx(15.0)


def test_devices_are_added_up_for_the_samples_that_they_train(now):
    sampler = sampler_of(now, Card(now), Card(now, index=2))
    energy = StepEnergy(sampler, [0, 2], share=0.5)  # two of four train on another machine
    at(now, 0.0, sampler)
    energy.add(0.0, 1.0, 40)
    at(now, 1.0, sampler)
    assert energy.settle() == pytest.approx(2 * 100 / 20)


@pytest.mark.parametrize("indices", [[], [0, 1]])
def test_a_device_that_does_not_tell_makes_it_unknown(now, indices):
    sampler = sampler_of(now, Card(now), Card(now, index=1, is_telling=False))
    energy = StepEnergy(sampler, indices, share=1.0)
    at(now, 0.0, sampler)
    energy.add(0.0, 1.0, 10)
    at(now, 1.0, sampler)
    assert energy.settle() is None
    assert energy.joules_per_sample is None
