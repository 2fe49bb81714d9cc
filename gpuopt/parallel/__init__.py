"""Work in several processes: jobs of a sweep, ranks that train together. Imports no torch."""

from gpuopt.parallel.jobs import JobEnd, StopRequest, run_job

__all__ = ["JobEnd", "StopRequest", "run_job"]
