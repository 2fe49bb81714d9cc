"""All that is read out of a trace, and the sentence that matters most."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpuopt.profiling.calls import operator_calls
from gpuopt.profiling.kernels import KernelRow, kernel_rows
from gpuopt.profiling.memory_timeline import MemoryPoint, memory_timeline
from gpuopt.profiling.operators import OperatorRow, operator_rows, site_rows
from gpuopt.profiling.shares import PhaseTime, Share, phase_times, step_shares
from gpuopt.profiling.synchronisations import WaitRow, wait_rows
from gpuopt.profiling.trace import Trace, read_trace
from gpuopt.profiling.words import figure

__all__ = ["Profile", "profile_of", "profile_trace"]

_MOST_IN_SUMMARY = 20
_SMALL_RATIO = 0.1  # less is not worth a sentence


@dataclass(frozen=True)
class Profile:
    """Where the time of a few recorded steps went.

    Attributes:
        steps: That were recorded.
        step_ms: Mean time of a recorded step.
        plain_step_ms: The same without the profiler; None when it was not measured.
        has_device: Whether the times are those of a CUDA device.
        shares: Of the step; they add up to 1, the largest first.
        phases: Data, forward, backward, optimizer.
        operators: What took most first.
        operators_by_shape: The same for each shape of inputs, if these were recorded.
        sites: Functions of Python that called them, if these were recorded.
        kernels: Of the device.
        copies: Of the device.
        waits: For the device.
        memory: If allocations were recorded.
    """

    steps: int
    step_ms: float
    plain_step_ms: float | None
    has_device: bool
    shares: Sequence[Share]
    phases: Sequence[PhaseTime]
    operators: Sequence[OperatorRow]
    operators_by_shape: Sequence[OperatorRow] = ()
    sites: Sequence[OperatorRow] = ()
    kernels: Sequence[KernelRow] = ()
    copies: Sequence[KernelRow] = ()
    waits: Sequence[WaitRow] = ()
    memory: Sequence[MemoryPoint] = field(default=(), repr=False)

    @property
    def overhead_ratio(self) -> float | None:
        """How many times as long a step took while it was recorded."""
        return self.step_ms / self.plain_step_ms if self.plain_step_ms else None

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that was held."""
        return max((point.allocated_bytes for point in self.memory), default=None)

    def own_ms(self, row: OperatorRow) -> float:
        """Return an operator's own time in a step, on the device or else on the host."""
        return (row.self_device_ms if self.has_device else row.self_host_ms) / self.steps

    def headline(self) -> str:
        """Say what took the time of a step, in milliseconds and per cent."""
        first = self.shares[0]
        what, ms = _TAKES[first.name], first.ms
        if self.operators and first.name in ("kernels", "operators"):
            top = self.operators[0]
            what, ms = f"{top.name} takes", self.own_ms(top)
        ratio = ms / self.step_ms
        return (
            f"A step takes {figure(self.step_ms)} ms: {what} {figure(ms)} ms of it ({ratio:.0%})."
        )

    def advice(self) -> list[str]:
        """Say what to look at next, in whole sentences; nothing where the device is busy."""
        found = [
            f"{share.ratio:.0%} {share.name}: {_ADVICE[share.name]}."
            for share in self.shares
            if share.ratio >= _SMALL_RATIO and share.name in _ADVICE
        ]
        if self.plain_step_ms and self.step_ms > self.plain_step_ms * (1 + _SMALL_RATIO):
            whose = "the host's times" if self.has_device else "times"
            found.append(
                f"Without the profiler a step takes {figure(self.plain_step_ms)} ms: {whose} here "
                "are too long, most of all those of small operators and of Python."
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values; of long lists the beginning."""
        lists = ("operators", "sites", "kernels", "copies", "waits")
        content: dict[str, Any] = {
            "headline": self.headline(),
            "steps": self.steps,
            "step_ms": self.step_ms,
            "plain_step_ms": self.plain_step_ms,
            "overhead_ratio": self.overhead_ratio,
            "has_device": self.has_device,
            "peak_bytes": self.peak_bytes,
            "shares": [asdict(share) for share in self.shares],
            "phases": [asdict(phase) for phase in self.phases],
        }
        for name in lists:
            content[name] = [asdict(row) for row in getattr(self, name)[:_MOST_IN_SUMMARY]]
        return content


_TAKES = {
    "kernels": "the device computes",
    "copies": "the device copies",
    "launch gaps": "for the host's next kernel the device waits",
    "synchronisations": "after the host waited for it the device idles",
    "data": "the wait for the next batch takes",
    "between kernels": "from kernel to kernel the device needs",
    "operators": "operators take",
    "host code": "Python outside of operators takes",
}
_ADVICE = {
    "launch gaps": "the host is slower than the device: a larger micro_batch_size, or "
    "compile.mode=reduce-overhead, launches less for the same work",
    "synchronisations": "the host waits for the device and then has to fill it again: see which "
    "operators read a number from it",
    "data": "the next batch takes that: gpuopt diagnose target=bottleneck measures what more "
    "num_workers or smaller images would gain",
    "copies": "the device copies: pin_memory=true, and fewer copies between host and device",
    "host code": "Python and the framework take that: a larger micro_batch_size spreads it",
}


def profile_trace(path: Path, *, plain_step_ms: float | None = None) -> Profile:
    """Analyse a trace file of any program that calls `profile.step()`.

    Raises:
        InputError: When it is none, or holds no step.
    """
    return profile_of(read_trace(path), plain_step_ms=plain_step_ms)


def profile_of(trace: Trace, *, plain_step_ms: float | None = None) -> Profile:
    """Analyse a trace.

    Args:
        trace: With at least one step.
        plain_step_ms: What a step takes without the profiler, if that is known.
    """
    has_shapes = any(span.shapes for span in trace.operators)
    steps, calls = len(trace.steps), operator_calls(trace)
    return Profile(
        steps=steps,
        step_ms=(trace.end_us - trace.start_us) / steps / 1000,
        plain_step_ms=plain_step_ms,
        has_device=trace.has_device,
        shares=step_shares(trace),
        phases=phase_times(trace),
        operators=operator_rows(calls),
        operators_by_shape=operator_rows(calls, by_shape=True) if has_shapes else (),
        sites=site_rows(calls),
        kernels=kernel_rows(trace.kernels),
        copies=kernel_rows(trace.copies),
        waits=wait_rows(trace),
        memory=memory_timeline(trace),
    )
