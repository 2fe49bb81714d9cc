"""Floor 6: what a recorded trace of a training says. Imports no torch."""

from gpuopt.profiling.profile import Profile, profile_of, profile_trace
from gpuopt.profiling.trace import Trace, read_trace, trace_of

__all__ = ["Profile", "Trace", "profile_of", "profile_trace", "read_trace", "trace_of"]
