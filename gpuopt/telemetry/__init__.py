"""Floor 4: what the devices do, read once and shown in several ways. Imports no torch."""

from gpuopt.telemetry.host import HostMeter
from gpuopt.telemetry.sample import HostReading, Sample
from gpuopt.telemetry.sampler import Sampler
from gpuopt.telemetry.subscription import Subscription

__all__ = ["HostMeter", "HostReading", "Sample", "Sampler", "Subscription"]
