"""Samples for the tests of what reads them."""

from gpuopt.hardware import DeviceProcess, DeviceReading
from gpuopt.telemetry import HostReading, Sample

__all__ = ["FULL", "card", "sample"]

# A device of which everything is known.
FULL = {
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "memory_total_bytes": 80 * 2**30,
    "memory_used_bytes": 60 * 2**30,
    "utilisation_ratio": 0.75,
    "memory_utilisation_ratio": 0.5,
    "power_w": 512.5,
    "power_limit_w": 700.0,
    "temperature_c": 61.0,
    "sm_clock_mhz": 1830,
    "memory_clock_mhz": 2619,
    "energy_j": 1e6,
    "throttle_reasons": ["power_cap"],
    "encoder_ratio": 0.1,
    "decoder_ratio": 0.2,
    "memory_temperature_c": 70.0,
    "fan_ratio": 0.3,
    "sm_clock_limit_mhz": 1980,
    "violation_s": {"power_cap": 3.0},
    "ecc_corrected": 2,
    "ecc_uncorrected": 1,
    "pcie_generation": 5,
    "pcie_width": 16,
    "pcie_received_bytes_per_s": 2e9,
    "pcie_sent_bytes_per_s": 3e7,
    "processes": [DeviceProcess(4711, "python train.py", 59 * 2**30)],
}


def card(index=0, **known):
    """Return a device of which only this is known."""
    return DeviceReading(index=index, **known)


def sample(number=0, *devices, time_s=None, **known):
    """Return a sample; without devices, one of a card of which everything is known."""
    return Sample(
        time_s=1_700_000_000.0 + number if time_s is None else time_s,
        devices=devices or (card(**FULL),),
        number=number,
        **{
            "host": HostReading(0.25, 6 * 2**30, 24 * 2**30),
            "throttled_s": {0: {"power_cap": 12.0}},
            "training": {"train/loss_step": 0.5},
            "used_j": {0: 7200.0},
            **known,
        },
    )
