"""How fast training is and what the device does, to any Lightning logger."""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from gpuopt.callbacks.adaptive_batch_size import AdaptiveBatchSize
from gpuopt.callbacks.device_queue import CudaInstant
from gpuopt.hardware import Device, DeviceReading, cuda_devices
from gpuopt.measure import Segment, StepTimer, TimedSteps
from gpuopt.steps.step_count import ends_step, is_logged, steps_done
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["GpuStats"]

_WARMUP_STEPS = 2  # the first steps choose kernels and fill caches


class GpuStats(L.Callback):
    """Logs samples per second, data-wait ratio and device readings while training.

    The figures of `log_every_n_steps` optimizer steps are written when the device has done them,
    which it is never made to wait for. What cannot be read is left out, never reported as zero.

    Args:
        interval_s: Least time between two readings of the devices, in seconds.
        devices: What to read; None finds the CUDA devices through NVML.

    Attributes:
        segments: Throughput of every logged stretch of steps.
    """

    def __init__(self, interval_s: float = 1.0, devices: Sequence[Device] | None = None) -> None:
        self.segments: list[Segment] = []
        self._interval_s = interval_s
        self._devices = devices
        self._timer = StepTimer()
        self._timed: deque[tuple[TimedSteps, int]] = deque()
        self._read_at = 0.0
        self._first_step = 0
        self._last_step = 0
        self._is_in_window = False
        self._peak_bytes: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the devices."""
        device = pl_module.device
        if device.type == "cuda":
            self._timer = StepTimer(lambda: CudaInstant(device))
            torch.cuda.reset_peak_memory_stats(device)
        if self._devices is None:
            self._devices = cuda_devices() if device.type == "cuda" else []
        self._first_step = steps_done(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a segment; validation between epochs does not count."""
        self._timer.begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that the wait for data is over."""
        if self._timer.is_running:
            self._timer.batch_ready()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch, and log when the Trainer does."""
        step, stepped = steps_done(trainer), ends_step(trainer)
        self._last_step, self._is_in_window = step, not stepped
        if not self._timer.is_running:  # resumed in the middle of an epoch
            if stepped:
                self._timer.begin()
            return
        self._timer.batch_done(_sample_count(batch) * trainer.world_size, ends_step=stepped)
        warmth = step + 1 - self._first_step - _WARMUP_STEPS
        if stepped and warmth == 0:
            self._timer.begin()
        elif stepped and warmth > 0 and is_logged(trainer, step):
            self._close(step)
            self._timer.begin()
        self._log_finished(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close what a run without validation leaves open."""
        self._finish(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the segment before validation begins."""
        self._finish(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read how much memory training held, before a test asks for more."""
        if pl_module.device.type == "cuda":
            # Who measures single steps makes the device forget, and remembers by itself.
            callbacks = callbacks_of(trainer)
            earlier = [c.peak_reserved_bytes for c in callbacks if isinstance(c, AdaptiveBatchSize)]
            now = torch.cuda.max_memory_reserved(pl_module.device)
            self._peak_bytes = max([now, *earlier])

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Log what an interrupted run has measured."""
        with contextlib.suppress(RuntimeError):  # a failed device must not hide the first error
            self._log_finished(trainer, wait=True)

    def summary(self) -> dict[str, float]:
        """Return throughput and peak memory of the whole run; what was not measured is left out."""
        peak_bytes = self._peak_bytes
        memory = {} if peak_bytes is None else {"peak_memory_gib": peak_bytes / 2**30}
        duration_s = sum(segment.duration_s for segment in self.segments)
        if duration_s <= 0:
            return memory
        return {
            **memory,
            "samples_per_second": sum(s.samples for s in self.segments) / duration_s,
            "step_ms": 1000 * duration_s / sum(s.steps for s in self.segments),
            "data_wait_ratio": sum(s.data_wait_s for s in self.segments) / duration_s,
        }

    def _close(self, step: int) -> None:
        timed = self._timer.end()
        if timed.steps and step >= self._first_step + _WARMUP_STEPS:
            self._timed.append((timed, step))

    def _finish(self, trainer: L.Trainer) -> None:
        """Close the last segment, unless validation comes in the middle of a step."""
        if self._timer.is_running and self._is_in_window:
            self._timer.end()
        elif self._timer.is_running:
            self._close(self._last_step)
        self._log_finished(trainer, wait=True)

    def _log_finished(self, trainer: L.Trainer, *, wait: bool = False) -> None:
        while self._timed and (wait or self._timed[0][0].is_finished):
            timed, step = self._timed.popleft()
            segment = timed.segment()
            self.segments.append(segment)
            self._log(trainer, segment, step)

    def _log(self, trainer: L.Trainer, segment: Segment, step: int) -> None:
        metrics = {
            "throughput/samples_per_second": segment.samples_per_second,
            "throughput/step_ms": segment.step_ms,
            "throughput/data_wait_ratio": segment.data_wait_ratio,
        }
        now = time.monotonic()
        if self._devices and now - self._read_at >= self._interval_s:
            self._read_at = now
            for device in self._devices:
                metrics |= _readable(device.read())
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)


def _readable(reading: DeviceReading) -> dict[str, float]:
    fields = {
        "utilisation_ratio": reading.utilisation_ratio,
        "memory_used_gib": None
        if reading.memory_used_bytes is None
        else reading.memory_used_bytes / 2**30,
        "power_w": reading.power_w,
        "temperature_c": reading.temperature_c,
        "sm_clock_mhz": reading.sm_clock_mhz,
    }
    return {f"gpu{reading.index}/{k}": float(v) for k, v in fields.items() if v is not None}


def _sample_count(batch: Any) -> int:
    """Find the first tensor of a batch of any shape; its first dimension counts the samples."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, Sequence) and not isinstance(batch, str) and batch:
        return _sample_count(batch[0])
    return 1
