"""Floor 4: what the devices do, read once and shown in several ways. Imports no torch."""

from gpuopt.telemetry.host import HostMeter
from gpuopt.telemetry.jsonl import JsonlLog
from gpuopt.telemetry.log_writer import LogWriter
from gpuopt.telemetry.replay import Replay
from gpuopt.telemetry.run_metrics import RunMetrics
from gpuopt.telemetry.sample import HostReading, Sample
from gpuopt.telemetry.sampler import Sampler
from gpuopt.telemetry.subscription import Subscription

__all__ = [
    "HostMeter",
    "HostReading",
    "JsonlLog",
    "LogWriter",
    "Replay",
    "RunMetrics",
    "Sample",
    "Sampler",
    "Subscription",
]
