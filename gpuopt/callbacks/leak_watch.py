"""Watch a training's memory for what grows without end, and say which lines make it."""

import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import _TunerExitException

from gpuopt.errors import InputError
from gpuopt.hardware import give_back_freed_memory
from gpuopt.measure.memory_growth import Growth, MemorySeries, growing
from gpuopt.memory.process_memory import live_tensor_bytes, resident_bytes, worker_bytes
from gpuopt.steps.allocation_sites import (
    AllocationMark,
    AllocationSite,
    AllocationTrace,
    GrowingContainer,
    grown,
)
from gpuopt.steps.batch_parts import tensors_of
from gpuopt.steps.tensor_cycles import CycleCatch, TensorCycles

__all__ = ["LeakWatch"]

_log = logging.getLogger(__name__)

_MIB = 2**20
_MOST_READINGS = 2000
_COLLECTIONS = 100
_READING_RATIO = 0.2  # of the time that looking at all tensors may take
# Parts of the duration: first only readings; then, where something grows, lines of code.
_WATCHED, _FIRST_MARK = 0.6, 0.75
_LEAST_STEPS = 3  # from one mark to the other
_CYCLE_STEPS = 3
_SITE_RATIO = 0.1  # of the growth: a line that makes less is not named


class LeakWatch(L.Callback):
    """Reads memory at the same moment of each optimizer step: before it, with its batch there.

    Told apart are tensors that are never freed, memory that a CUDA allocator reserves without
    giving it out, memory of the host, and memory of the loader's processes. For any Trainer; each
    rank watches its own.

    Args:
        duration_s: How long to watch.
        threshold_mib: Growth within that time that is no leak, in MiB.
        ends_fit: Whether the fit ends with the watch.
        clock: Monotonic time in seconds.
        on_reading: Called after each reading with the seconds that are over.

    Attributes:
        series: All readings.
        growth: What grows; known at the end of the watch.
        sites: Lines whose objects stay.
        containers: Lists and the like that get longer.
        cycles: Tensors in reference cycles; None where there are none.

    Raises:
        InputError: For a duration or threshold that is not above 0.
    """

    def __init__(
        self,
        duration_s: float = 600.0,
        threshold_mib: float = 100.0,
        *,
        ends_fit: bool = False,
        clock: Callable[[], float] = time.monotonic,
        on_reading: Callable[[float], None] | None = None,
    ) -> None:
        if not (duration_s > 0 and threshold_mib > 0):
            raise InputError("LeakWatch: duration_s and threshold_mib must be above 0")
        self.series = MemorySeries()
        self.growth: list[Growth] = []
        self.sites: list[AllocationSite] = []
        self.containers: list[GrowingContainer] = []
        self.cycles: TensorCycles | None = None
        self._duration_s = duration_s
        self._threshold_bytes = threshold_mib * _MIB
        self._ends_fit = ends_fit
        self._clock = clock
        self._on_reading = on_reading
        self._steps = 0
        self._began_s: float | None = None
        self._next_s = self._gap_s = self._collect_s = 0.0
        self._trace: AllocationTrace | None = None
        self._mark: AllocationMark | None = None
        self._marked_at = 0
        self._least_bytes = 0.0
        self._catch: CycleCatch | None = None
        self._caught_from = 0
        self._is_over = False
        self._was_frozen = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Free what is free before the loader's processes start as copies of this one.

        They would fill the copied pages first, and drop garbage of this process at some time.
        """
        gc.collect()
        give_back_freed_memory()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take a reading before a step, and come to an end when the time is over."""
        if self._is_over or batch_idx % trainer.accumulate_grad_batches:
            return
        device = pl_module.device
        if self._began_s is None:
            self._began_s = self._clock()
            self._set_aside()
        elapsed_s = self._clock() - self._began_s
        if self._catch is None and elapsed_s >= self._next_s and self._trace is None:
            self._read(elapsed_s, batch, device)
        self._locate(elapsed_s, device)
        if elapsed_s >= self._duration_s and self._cycles_are_known():
            self._conclude()
            if self._ends_fit:
                raise _TunerExitException  # Lightning's own way to end a fit that was a search
        self._steps += 1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge what there is when the training is shorter than the watch."""
        self._conclude()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Stop tracing."""
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop tracing, also where another callback has ended the fit in the middle."""
        self._stop()

    def _set_aside(self) -> None:
        """Leave what is there by now out of every look at all objects: it takes 0.1 s."""
        self._was_frozen = gc.get_freeze_count() > 0
        gc.collect()
        gc.freeze()

    def _read(self, elapsed_s: float, batch: Any, device: torch.device) -> None:
        began_s = self._clock()
        series = self.series
        if elapsed_s >= self._collect_s:
            gc.collect()  # what a collector frees is no leak, however long it waits
            self._collect_s = elapsed_s + self._duration_s / _COLLECTIONS
        given = sum(tensor.nbytes for tensor in tensors_of(batch))
        if device.type == "cuda":
            series.tensors_bytes.append(torch.cuda.memory_allocated(device) - given)
            series.reserved_bytes.append(torch.cuda.memory_reserved(device))
        else:
            series.tensors_bytes.append(live_tensor_bytes() - given)
        series.host_bytes.append(resident_bytes() or 0)
        series.loader_bytes.append(worker_bytes() or 0)
        series.time_s.append(elapsed_s)
        series.steps.append(self._steps)
        if len(series.time_s) > _MOST_READINGS:
            series.thin_out()
            self._gap_s = 2 * elapsed_s / _MOST_READINGS
        cost_s = (self._clock() - began_s) / _READING_RATIO
        self._next_s = elapsed_s + max(self._gap_s, cost_s)
        if self._on_reading is not None:
            self._on_reading(elapsed_s)

    def _locate(self, elapsed_s: float, device: torch.device) -> None:
        """Follow allocations for the rest of the time when something grows."""
        share = elapsed_s / self._duration_s
        if self._trace is None and self._catch is None and share >= _WATCHED:
            # Lines are looked for in this process only.
            if found := [one for one in self._grows() if one.kind != "loader"]:
                kinds = {one.kind for one in found}
                self._least_bytes = _SITE_RATIO * min(one.bytes_per_step for one in found)
                self._trace = AllocationTrace(
                    device, tensors=bool(kinds - {"host"}), host="host" in kinds
                )
                self._trace.start()
                self._marked_at = self._steps
            return
        if self._trace is None:
            return
        steps = self._steps - self._marked_at
        if self._mark is None and share >= _FIRST_MARK and steps >= _LEAST_STEPS:
            self._mark, self._marked_at = self._trace.mark(), self._steps
        elif self._mark is not None and share >= 1.0 and steps >= _LEAST_STEPS:
            now = self._trace.mark()
            self._trace.stop()
            self._trace = None
            self.sites, self.containers = grown(self._mark, now, steps, self._least_bytes)

    def _grows(self) -> list[Growth]:
        return growing(self.series, self._duration_s, self._threshold_bytes)

    def _cycles_are_known(self) -> bool:
        """Let garbage pile up for a few steps at the end, when all lines are known."""
        if self._trace is not None:
            return False
        if self._catch is None:
            self._catch, self._caught_from = CycleCatch(), self._steps
            self._catch.start()
        steps = self._steps - self._caught_from
        if steps < _CYCLE_STEPS:
            return False
        self.cycles = self._catch.stop(steps)
        return True

    def _conclude(self) -> None:
        if self._is_over:
            return
        self._stop()
        self._is_over = True
        self.growth = self._grows()
        for one in self.growth:
            has_place = self.sites and one.kind != "loader"
            place = f", made at {self.sites[0].place}" if has_place else ""
            step_mib = one.bytes_per_step / _MIB
            _log.warning("memory grows (%s): %.3g MiB a step%s", one.kind, step_mib, place)

    def _stop(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace = None
        if self._catch is not None and not self._is_over and self.cycles is None:
            self._catch.stop(max(1, self._steps - self._caught_from))
            self._catch = None
        if not self._was_frozen:
            gc.unfreeze()
            self._was_frozen = True
