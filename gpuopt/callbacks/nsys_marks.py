"""Marks for Nsight Systems over a bounded window of a training, in any Trainer."""

import torch

from gpuopt.callbacks.step_phases import StepPhases
from gpuopt.steps.phase_names import Phase, range_name

__all__ = ["NsysMarks"]


class NsysMarks(StepPhases):
    """Opens the capture range of `nsys profile` for the marked steps and names their phases.

    Start the program as `nsys profile --capture-range=cudaProfilerApi --capture-range-end=stop`.
    On a CPU there is nothing to mark: nsys then samples the whole program.
    """

    _has_step = False
    _has_phase = False
    _is_capturing = False

    def _begin(self, device: torch.device) -> None:
        self._is_capturing = device.type == "cuda"
        if self._is_capturing:
            torch.cuda.profiler.start()
            self._open_step()

    def _enter(self, phase: Phase) -> None:
        if self._is_capturing:
            self._leave()
            torch.cuda.nvtx.range_push(range_name(phase))
            self._has_phase = True

    def _next_step(self, device: torch.device) -> None:
        if self._is_capturing:
            self._leave()
            self._close_step()
            if self.marked_steps < self._marked:
                self._open_step()

    def _end(self) -> None:
        if self._is_capturing:
            self._is_capturing = False
            self._leave()
            self._close_step()
            torch.cuda.profiler.stop()

    def _open_step(self) -> None:
        torch.cuda.nvtx.range_push(f"step {self.marked_steps}")
        self._has_step = True

    def _close_step(self) -> None:
        if self._has_step:
            torch.cuda.nvtx.range_pop()
            self._has_step = False

    def _leave(self) -> None:
        if self._has_phase:
            torch.cuda.nvtx.range_pop()
            self._has_phase = False
