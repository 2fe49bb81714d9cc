"""Floor 4: what the devices do, read once and shown in several ways. Imports no torch."""

from gpuopt.telemetry.sample import HostReading, Sample

__all__ = ["HostReading", "Sample"]
