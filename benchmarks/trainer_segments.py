"""Timing gpuopt's real Trainer in segments that alternate with other loops in one process."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from benchmarks.step_setting import CLIP_NORM, MemoryImages, StepSetting, synchronizer
from gpuopt.callbacks import DurableCheckpoint, GpuStats
from gpuopt.hardware import Gpu, float32_matmul_precision, keep_freed_memory
from gpuopt.measure.pairs import abba_orders
from gpuopt.model import Classifier
from gpuopt.session.fitting import FitSettings, fit
from gpuopt.session.plan import Plan
from gpuopt.session.scalar_logs import make_logger

__all__ = ["GPUOPT", "Design", "Interleaver", "MeasuredError", "time_fit"]

GPUOPT = "gpuopt"
"""Name of the Trainer among the contestants."""


@dataclass(frozen=True)
class Design:
    """How often and how long everybody runs.

    Attributes:
        rounds: Segments of each contestant.
        steps: Timed optimizer steps of a segment.
        warmup_steps: Untimed ones before them.
        prelude_steps: Untimed ones of each contestant before everything, to compile and to
            choose kernels.
    """

    rounds: int
    steps: int
    warmup_steps: int
    prelude_steps: int

    @property
    def trainer_steps(self) -> int:
        """Optimizer steps that the Trainer needs, the one that ends the last segment included."""
        return self.prelude_steps + self.rounds * (self.warmup_steps + self.steps) + 1


class MeasuredError(Exception):
    """Ends a fit when everything has been measured, before it validates or saves."""


class Interleaver(L.Callback):
    """Times the Trainer that it belongs to, and runs the peers between its segments.

    A segment ends where it began: when the Trainer has the first micro-batch of an optimizer
    step, so that each holds whole steps with all callbacks, loading and logging. The device is
    synchronised at its two edges only.

    Args:
        peers: What does one optimizer step, by name.
        design: The segments.
        synchronize: Waits for the device.
        clock: Monotonic time in seconds.

    Attributes:
        step_s: Mean step of each segment, in seconds, for `gpuopt` and each peer.
    """

    def __init__(
        self,
        peers: Mapping[str, Callable[[], None]],
        design: Design,
        synchronize: Callable[[], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.step_s: dict[str, list[float]] = {name: [] for name in (GPUOPT, *peers)}
        self._peers = peers
        self._design = design
        self._synchronize = synchronize
        self._clock = clock
        self._course = self._run()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the measurement before each optimizer step of the Trainer."""
        if batch_idx % trainer.accumulate_grad_batches == 0 and next(self._course, "end") == "end":
            raise MeasuredError

    def _run(self) -> Iterator[None]:
        """Lead through all segments; every `yield` lets the Trainer do one step."""
        design = self._design
        for step in self._peers.values():
            _repeat(step, design.prelude_steps)
        for _ in range(design.prelude_steps):
            yield
        for order in abba_orders(tuple(self.step_s), design.rounds):
            for name in order:
                if name == GPUOPT:
                    for _ in range(design.warmup_steps):
                        yield
                    began_s = self._now()
                    for _ in range(design.steps):
                        yield
                    ended_s = self._now()
                else:
                    _repeat(self._peers[name], design.warmup_steps)
                    began_s = self._now()
                    _repeat(self._peers[name], design.steps)
                    ended_s = self._now()
                self.step_s[name].append((ended_s - began_s) / design.steps)

    def _now(self) -> float:
        self._synchronize()
        return self._clock()


def time_fit(
    setting: StepSetting,
    design: Design,
    model: Classifier,
    data: MemoryImages,
    folder: Path,
    peers: Mapping[str, Callable[[], None]] | None = None,
    callbacks: Sequence[L.Callback] = (),
) -> dict[str, list[float]]:
    """Train with `gpuopt.session.fitting.fit` and its default callbacks, and time the steps.

    Neither validation nor checkpoints happen while it runs.

    Args:
        setting: Of the step.
        design: The segments.
        model: gpuopt's classifier.
        data: Its images; an epoch must have `design.trainer_steps` steps.
        folder: For logs; may be temporary.
        peers: Other loops' optimizer steps, by name.
        callbacks: Further ones than the default.

    Returns:
        Mean step of each segment in seconds, by contestant.

    Raises:
        RuntimeError: When the fit ends before everything is measured.
    """
    torch.set_float32_matmul_precision(float32_matmul_precision(setting.precision))
    if setting.device == "cpu":
        keep_freed_memory()  # as the commands do; here it speeds the peers up, too
    interleaver = Interleaver(peers or {}, design, synchronizer(setting.device))
    settings = FitSettings(
        max_epochs=1, gradient_clip_norm=CLIP_NORM, log_every_n_steps=setting.log_every_n_steps
    )
    if setting.compile_backend is not None:
        model.backbone.compile(backend=setting.compile_backend)
    with warnings.catch_warnings():
        # Lightning 2.6 asks an old question of PyTorch's pytree on every fit, and finds that a
        # short measurement never logs.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
        warnings.filterwarnings("ignore", message=r".*smaller than the logging interval.*")
        try:
            fit(
                _plan(setting),
                settings,
                model,
                data,
                folder=folder,
                checkpoint=DurableCheckpoint(folder, every_n_seconds=None),
                callbacks=[*callbacks, GpuStats(), interleaver],
                # What a run logs to by default, where it is installed.
                logger=make_logger("tensorboard" if find_spec("tensorboard") else "csv", folder),
            )
        except MeasuredError:
            return interleaver.step_s
    raise RuntimeError("the epoch was too short to measure everything")


def _plan(setting: StepSetting) -> Plan:
    return Plan(
        accelerator=setting.device,
        gpu=Gpu(name="cpu" if setting.device == "cpu" else "auto"),
        precision=setting.precision,
        image_size=setting.image_size,
        global_batch_size=setting.global_batch_size,
        micro_batch_size=setting.micro_batch_size,
        devices=1,
        num_workers=setting.workers,
        choices=(),
    )


def _repeat(step: Callable[[], None], count: int) -> None:
    for _ in range(count):
        step()
