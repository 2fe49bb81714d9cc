"""Real training steps of any module, timed at different settings of its loader."""

import contextlib
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import _TunerExitException

from gpuopt.memory.device_errors import free_memory
from gpuopt.steps.batch_parts import sample_count
from gpuopt.tuning.goal import Figures
from gpuopt.tuning.loader_search import LoaderReading
from gpuopt.tuning.loader_setting import LoaderSetting
from gpuopt.tuning.loader_timing import read_alone
from gpuopt.tuning.round_clock import RoundClock, RoundLimits

__all__ = ["FitTiming"]

_WARM_STEPS = 3  # of CUDA graphs the first warms up, the second records and the third replays


class FitTiming:
    """Fits a module for a moment, again and again, and times the steps.

    Each fit has a Trainer of its own, starts the loader's processes and ends them again. The
    module trains on; between two fits its memory on a device is given back.

    Args:
        make_trainer: Makes a Trainer with these callbacks, which neither validates nor saves, and
            goes on for as many epochs as it is let.
        module: What is trained.
        data: Its data; `LoaderSetting.apply_to` has to mean something to it.
        limits: How long steps are timed.
    """

    def __init__(
        self,
        make_trainer: Callable[[Sequence[L.Callback]], L.Trainer],
        module: L.LightningModule,
        data: L.LightningDataModule,
        limits: RoundLimits,
    ) -> None:
        self._make_trainer = make_trainer
        self._module = module
        self._data: Any = data
        self._limits = limits
        self._pins = bool(getattr(data, "pin_memory", False))

    def beside(self, setting: LoaderSetting) -> Figures:
        """Time the training with its loader."""
        setting.apply_to(self._data)
        return self._fit(setting.num_workers)

    def alone(self) -> Figures:
        """Time the training with one batch again and again: what the device takes at most."""
        LoaderSetting(0, pin_memory=self._pins).apply_to(self._data)
        batch = next(iter(self._data.train_dataloader()))
        with self._loading(lambda: _SameBatch(batch)):
            return self._fit(0)

    def reading(self) -> LoaderReading:
        """Measure one process that does nothing but load."""
        LoaderSetting(1, pin_memory=self._pins).apply_to(self._data)
        return read_alone(lambda: self._data.train_dataloader())

    def at_start(self, *callbacks: L.Callback) -> None:
        """Begin a fit for what callbacks do when it starts, and end it before its first step."""
        self._run([*callbacks, _EndAtStart()])

    def _fit(self, num_workers: int) -> Figures:
        rounds = _Rounds(num_workers, self._limits)
        self._run([rounds])
        return rounds.figures()

    def _run(self, callbacks: Sequence[L.Callback]) -> None:
        trainer = self._make_trainer(callbacks)
        try:
            trainer.fit(self._module, datamodule=self._data)
        finally:
            self._data.trainer = None
            free_memory()

    @contextlib.contextmanager
    def _loading(self, make_loader: Callable[[], Any]) -> Iterator[None]:
        self._data.train_dataloader = make_loader
        try:
            yield
        finally:
            del self._data.train_dataloader


class _SameBatch:
    """Yields one batch for ever."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self._batch


class _Rounds(L.Callback):
    """Times the steps of a fit, and ends it."""

    def __init__(self, num_workers: int, limits: RoundLimits) -> None:
        self._num_workers = num_workers
        self._limits = limits
        self._clock: RoundClock | None = None
        self._figures: Figures | None = None
        self._device = torch.device("cpu")

    def figures(self) -> Figures:
        if self._figures is None:
            raise ValueError("the fit ended before anything was timed")
        return self._figures

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._device = pl_module.device
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        per_step = trainer.accumulate_grad_batches
        self._clock = RoundClock(
            self._num_workers,
            self._limits,
            settled_clock=self._now,
            untimed=_WARM_STEPS * per_step,
            batches_per_step=per_step,
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert self._clock is not None  # made at the start
        if self._clock.batch_done(sample_count(batch)):
            self._figures = self._clock.figures(_peak_bytes(self._device))
            raise _TunerExitException  # Lightning's own way to end a fit that was a search

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _EndAtStart(L.Callback):
    """Ends a fit when it begins; stands last."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise _TunerExitException


def _peak_bytes(device: torch.device) -> int:
    """Return the most that was allocated on a device; of a CPU the most the process ever had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
