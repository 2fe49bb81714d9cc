"""PyTorch's profiler over a bounded window of a training, in any Trainer."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile, schedule

from gpuopt.callbacks.step_phases import StepPhases, wait_for
from gpuopt.errors import InputError
from gpuopt.steps.phase_names import Phase, range_name

__all__ = ["ALLOCATOR_SNAPSHOT", "TRACE", "StepProfiler"]

_log = logging.getLogger(__name__)

TRACE = "trace.json.gz"
ALLOCATOR_SNAPSHOT = "allocator_snapshot.pickle"
_ACTIVITIES = {"cpu": ProfilerActivity.CPU, "cuda": ProfilerActivity.CUDA}
_MOST_ALLOCATIONS = 200_000  # events of the allocator in the snapshot, some 100 bytes each


class StepProfiler(StepPhases):
    """Records a few steps of a training with `torch.profiler`, marked by phase, and ends the fit.

    The steps before are only timed, so that the profiler's own cost is known. The device is empty
    at both ends of the recorded steps: what they gave it lies within.

        trainer = Trainer(callbacks=[StepProfiler("profile", wait=20)])
        trainer.fit(model, data)  # then profile/trace.json.gz is there

    Args:
        folder: Where `trace.json.gz` goes, and of a CUDA device `allocator_snapshot.pickle`.
        wait: Steps without the profiler.
        warmup: Steps that the profiler takes part in and forgets; at least 1.
        active: Steps that are recorded; 10 of a large network are some 10 MB.
        activities: `cpu`, `cuda` or both; `cuda` counts only where there is one.
        record_shapes: The shapes of each operator's inputs as well.
        with_stack: The functions of Python as well, which costs the most time.
        profile_memory: Each allocation as well.
        stops: End the fit after the window.
        on_step: Called after each step with the number that is done.

    Raises:
        InputError: For other activities, `cuda` alone without a CUDA device, or files that exist.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        wait: int = 10,
        warmup: int = 3,
        active: int = 10,
        activities: Sequence[str] = ("cpu", "cuda"),
        record_shapes: bool = False,
        with_stack: bool = False,
        profile_memory: bool = False,
        stops: bool = True,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        if wait < 0 or warmup < 1 or active < 1:
            raise InputError(
                f"wait={wait}, warmup={warmup}, active={active}: give at least 0, 1 and 1 steps"
            )
        super().__init__(plain=wait, marked=warmup + active, stops=stops, on_step=on_step)
        self._folder = Path(folder)
        self._warmup = warmup
        self._active = active
        self._activities = usable_activities(activities)
        self._record_shapes = record_shapes
        self._with_stack = with_stack
        self._profile_memory = profile_memory
        self._profile: Any = None
        self._range: Any = None
        self._snapshots = False
        for path in (self.trace_path, self.snapshot_path):
            if path.exists():
                raise InputError(f"{path} exists: name another folder")

    @property
    def trace_path(self) -> Path:
        """The trace, for Perfetto, chrome://tracing and `gpuopt.profiling`."""
        return self._folder / TRACE

    @property
    def snapshot_path(self) -> Path:
        """The allocator's snapshot, for pytorch.org/memory_viz."""
        return self._folder / ALLOCATOR_SNAPSHOT

    @property
    def recorded_steps(self) -> int:
        """Steps in the trace."""
        return max(0, self.marked_steps - self._warmup)

    def _begin(self, device: torch.device) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        profiler = profile(
            activities=self._activities,
            schedule=schedule(wait=0, warmup=self._warmup, active=self._active, repeat=1),
            on_trace_ready=self._export,
            record_shapes=self._record_shapes,
            with_stack=self._with_stack,
            profile_memory=self._profile_memory,
            acc_events=True,  # there is one cycle; PyTorch 2.11 warns of others without it
        )
        profiler.start()
        self._profile = profiler  # only now: to stop what never started is a crash of the process

    def _enter(self, phase: Phase) -> None:
        self._leave()
        self._range = record_function(range_name(phase))
        self._range.__enter__()

    def _leave(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def _next_step(self, device: torch.device) -> None:
        self._leave()
        if self.marked_steps == self._warmup:
            wait_for(device)  # kernels that were given to it before are not in the trace
            if self._profile_memory and device.type == "cuda":
                _record_allocations(on=True)
                self._snapshots = True
        if self.marked_steps == self._warmup + self._active:
            self._take_snapshot()
        self._profile.step()

    def _end(self) -> None:
        self._leave()
        self._take_snapshot()
        if self._profile is not None:
            self._profile.stop()  # exports what was recorded of a training that ended before
            self._profile = None

    def _take_snapshot(self) -> None:
        if not self._snapshots:
            return
        self._snapshots = False
        with contextlib.ExitStack() as stack:
            stack.callback(_record_allocations, on=False)
            part = self.snapshot_path.with_suffix(".part")
            torch.cuda.memory._dump_snapshot(str(part))
            part.rename(self.snapshot_path)

    def _export(self, finished: Any) -> None:
        part = self._folder / f".part_{TRACE}"  # its end says that it is to be compressed
        finished.export_chrome_trace(str(part))
        part.rename(self.trace_path)
        _log.info("recorded %d steps in %s", self.recorded_steps, self.trace_path)


def usable_activities(names: Sequence[str]) -> list[ProfilerActivity]:
    """Return those of the activities that this machine has.

    Raises:
        InputError: When there is another one, or none is left.
    """
    for name in names:
        if name not in _ACTIVITIES:
            raise InputError(f"activities: {name} is not one of {', '.join(_ACTIVITIES)}")
    has_cuda = torch.cuda.is_available()
    usable = [_ACTIVITIES[name] for name in names if name == "cpu" or has_cuda]
    if not usable:
        raise InputError(f"activities={list(names)}: there is no CUDA device: add cpu")
    return usable


def _record_allocations(*, on: bool) -> None:
    record: Any = torch.cuda.memory._record_memory_history  # its signature is not typed
    if on:
        record(enabled="all", stacks="python", max_entries=_MOST_ALLOCATIONS)
    else:
        record(enabled=None)
