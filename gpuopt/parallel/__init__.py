"""Work in several processes. Imports no torch."""

from gpuopt.parallel.jobs import JobEnd, StopRequest, run_job

__all__ = ["JobEnd", "StopRequest", "run_job"]
