"""How fast training is and what the device does, to any Lightning logger."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from gpuopt.callbacks.adaptive_batch_size import AdaptiveBatchSize
from gpuopt.callbacks.device_queue import CudaInstant
from gpuopt.callbacks.device_stats import DeviceStats, devices_of
from gpuopt.callbacks.flops_utilisation import FlopsUtilisation
from gpuopt.hardware import Device, Gpu, cuda_devices
from gpuopt.measure import Segment, StepTimer, TimedSteps
from gpuopt.steps.batch_parts import sample_count
from gpuopt.steps.step_count import ends_step, is_logged, steps_done
from gpuopt.steps.trainer_parts import callbacks_of, show_in_progress_bar
from gpuopt.telemetry.sampler import check_interval

__all__ = ["GpuStats"]

_log = logging.getLogger(__name__)

_WARMUP_STEPS = 2  # the first steps choose kernels and fill caches


class GpuStats(L.Callback):
    """Logs how fast training is, what it gets out of the device, and what the device does.

    Samples per second, step time, data-wait ratio, the share of the card's dense peak that the
    model's operations reach (MFU), joules per sample, and readings of devices and machine. The
    figures of `log_every_n_steps` optimizer steps are written when the device has done them,
    which it is never made to wait for; a thread of its own reads the devices. What cannot be read
    is left out, never reported as zero, and nothing that fails here stops the training. With
    several ranks the first one reads all devices of its machine that train.

    Args:
        interval_s: Time between two readings of the devices, in seconds.
        devices: What to read; None finds the CUDA devices through NVML.
        forward_flops: Operations of one sample's forward pass, for the MFU; None counts them in
            the first batch, which a compiled module does not allow.
        card: On which it trains, for its peak; None looks it up.
        precision: `fp32`, `tf32`, `bf16` or `fp16`; None asks the Trainer.

    Attributes:
        segments: Throughput of every logged stretch of steps.

    Raises:
        InputError: The interval is none.
    """

    def __init__(
        self,
        interval_s: float = 1.0,
        devices: Sequence[Device] | None = None,
        *,
        forward_flops: float | None = None,
        card: Gpu | None = None,
        precision: str | None = None,
    ) -> None:
        check_interval(interval_s)
        self.segments: list[Segment] = []
        self._interval_s = interval_s
        self._devices = devices
        self._flops = FlopsUtilisation(forward_flops, card, precision)
        self._stats: DeviceStats | None = None
        self._timer = StepTimer()
        self._timed: deque[tuple[TimedSteps, int]] = deque()
        self._first_step = 0
        self._last_step = 0
        self._is_in_window = False
        self._peak_bytes: int | None = None
        self._warned: set[str] = set()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the devices, and begin to read them."""
        device = pl_module.device
        if device.type == "cuda":
            self._timer = StepTimer(lambda: CudaInstant(device))
            torch.cuda.reset_peak_memory_stats(device)
        self._first_step = steps_done(trainer)
        self._flops.begin(trainer, pl_module)
        self._stop()
        if trainer.is_global_zero:
            devices = self._devices
            if devices is None:
                found = cuda_devices() if device.type == "cuda" else []
                devices = devices_of(trainer, found)
            share = min(1.0, len(devices) / trainer.world_size)  # a user may list idle ones too
            try:
                self._stats = DeviceStats(devices, self._interval_s, share)
            except RuntimeError as error:  # there may be no thread more
                self._stats = None
                self._warn("devices cannot be read", error)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a segment; validation between epochs does not count."""
        self._timer.begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that the wait for data is over."""
        if self._timer.is_running:
            self._timer.batch_ready()
        self._flops.batch_begins(pl_module)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Note that forward is over."""
        self._flops.backward_begins()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch, and log when the Trainer does."""
        samples = sample_count(batch)
        self._flops.batch_ends(samples)
        step, stepped = steps_done(trainer), ends_step(trainer)
        self._last_step, self._is_in_window = step, not stepped
        if not self._timer.is_running:  # resumed in the middle of an epoch
            if stepped:
                self._timer.begin()
            return
        self._timer.batch_done(samples * trainer.world_size, ends_step=stepped)
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
        """Read how much memory training held, before a test asks for more; stop reading."""
        self._stop()
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
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop reading, however training ended."""
        self._stop()

    def summary(self) -> dict[str, Any]:
        """Return what the whole run measured; what it did not is left out.

        Throughput, peak memory, MFU and joules per sample, and for each device that tells it the
        seconds for which each reason held its clock down.
        """
        found: dict[str, Any] = {} if self._stats is None else dict(self._stats.summary())
        if self._peak_bytes is not None:
            found["peak_memory_gib"] = self._peak_bytes / 2**30
        duration_s = sum(segment.duration_s for segment in self.segments)
        if duration_s <= 0:
            return found
        samples_per_second = sum(s.samples for s in self.segments) / duration_s
        mfu_ratio = self._flops.ratio(samples_per_second)
        return {
            **found,
            **({} if mfu_ratio is None else {"mfu_ratio": mfu_ratio}),
            "samples_per_second": samples_per_second,
            "step_ms": 1000 * duration_s / sum(s.steps for s in self.segments),
            "data_wait_ratio": sum(s.data_wait_s for s in self.segments) / duration_s,
        }

    def _stop(self) -> None:
        """End the thread and what watches the module; again does nothing."""
        self._flops.stop()
        if self._stats is not None:
            self._stats.stop()

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
            ended_s = time.monotonic()
            if self._stats is not None:
                self._stats.steps_done(ended_s - segment.duration_s, ended_s, segment.samples)
            self._log(trainer, segment, step)

    def _log(self, trainer: L.Trainer, segment: Segment, step: int) -> None:
        metrics = {
            "throughput/samples_per_second": segment.samples_per_second,
            "throughput/step_ms": segment.step_ms,
            "throughput/data_wait_ratio": segment.data_wait_ratio,
        }
        shown = {"samples/s": round(segment.samples_per_second, 1)}
        mfu_ratio = self._flops.ratio(segment.samples_per_second)
        if mfu_ratio is not None:
            metrics["throughput/mfu_ratio"] = mfu_ratio
            shown["mfu"] = round(mfu_ratio, 3)
        if self._stats is not None:
            metrics |= self._stats.metrics()
        show_in_progress_bar(trainer, shown)
        for logger in trainer.loggers:
            try:
                logger.log_metrics(metrics, step=step)
            except OSError as error:  # such as a full disk
                self._warn("statistics cannot be logged", error)

    def _warn(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s: %s", what, error)
