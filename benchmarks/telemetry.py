"""Training with a device that is sampled every second against training without."""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from benchmarks.memory_cells import Cell, build
from benchmarks.one_batch_fit import ENDLESS, fit_one_batch
from benchmarks.record import Row, add_common_arguments, format_rows, save
from benchmarks.step_setting import synchronizer
from benchmarks.trainer_segments import MeasuredError
from gpuopt.callbacks import GpuStats
from gpuopt.callbacks.device_queue import CudaInstant
from gpuopt.hardware import Device, NullDevice, cuda_devices, visible_devices
from gpuopt.measure import Instant
from gpuopt.measure.pairs import abba_orders, paired_ratio, verdict
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["WITH", "WITHOUT", "Blocks", "SampledOrNot", "main", "overhead_rows", "reading_rows"]

WITHOUT, WITH = "without", "with"

_GOAL = "<= 1.005"
_PRELUDE_STEPS = 10
_LEAST_STEPS = 3
_READINGS = 30


@dataclass(frozen=True)
class Blocks:
    """What is timed.

    Attributes:
        pairs: Blocks of each side.
        block_s: Length of one, which must hold several samples.
        interval_s: Between two samples.
    """

    pairs: int
    block_s: float
    interval_s: float


@dataclass
class SampledOrNot(L.Callback):
    """Turns a `GpuStats` of its own Trainer on and off from block to block, and times the blocks.

    Off means that the Trainer does not know the callback and its thread has ended. The mean step
    of a block counts, not its median, because a sample falls into few steps. One step after each
    turn is not timed. On a GPU its own clock counts, and nothing waits for it in between.

    Args:
        stats: The last callback of the Trainer; this one comes before it.
        blocks: To be timed.

    Attributes:
        step_s: Mean step of each block, in seconds, `without` and `with`.
    """

    stats: GpuStats
    blocks: Blocks
    step_s: dict[str, list[float]] = field(default_factory=lambda: {WITHOUT: [], WITH: []})

    def __post_init__(self) -> None:
        self._is_on = True
        self._course: Iterator[None] | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the measurement before each step."""
        if self._course is None:
            self._course = self._run(trainer, pl_module)
        if next(self._course, "end") == "end":
            raise MeasuredError

    def _run(self, trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
        """Lead through all blocks; every `yield` lets the Trainer do one step."""
        synchronize = synchronizer(module.device.type)
        for _ in range(_PRELUDE_STEPS):
            yield
        synchronize()
        began_s = time.perf_counter()
        for _ in range(_PRELUDE_STEPS):
            yield
        synchronize()
        step_s = (time.perf_counter() - began_s) / _PRELUDE_STEPS
        steps = max(_LEAST_STEPS, math.ceil(self.blocks.block_s / step_s))
        marks: list[tuple[str, Any, Any]] = []
        for name in itertools.chain(*abba_orders((WITHOUT, WITH), self.blocks.pairs)):
            self._turn(trainer, module, name)
            yield  # what was queued before the turn
            began = _mark(module.device)
            for _ in range(steps):
                yield
            marks.append((name, began, _mark(module.device)))
        synchronize()
        for name, began, ended in marks:
            self.step_s[name].append(ended.seconds_since(began) / steps)

    def _turn(self, trainer: L.Trainer, module: L.LightningModule, name: str) -> None:
        """Turn the callback on or off, where it is not already."""
        if self._is_on == (name == WITH):
            return
        self._is_on = name == WITH
        callbacks = callbacks_of(trainer)
        if self._is_on:
            callbacks.append(self.stats)
            self.stats.on_train_start(trainer, module)
            self.stats.on_train_epoch_start(trainer, module)
        else:
            callbacks.remove(self.stats)
            self.stats.teardown(trainer, module, "fit")


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks telemetry", description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="blocks of each side")
    parser.add_argument("--block-s", type=float, default=3.0, help="length of a block")
    parser.add_argument("--interval-s", type=float, default=1.0, help="between two samples")
    parser.add_argument("--only", default="", help="networks with this in their name")
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available() and not arguments.quick:
        parser.error("no CUDA device was found; --quick tests the program on a CPU")
    blocks = Blocks(arguments.pairs, arguments.block_s, arguments.interval_s)
    if arguments.quick:
        blocks = Blocks(pairs=3, block_s=0.02, interval_s=0.05)
    on_gpu = torch.cuda.is_available()
    rows = reading_rows(cuda_devices() or [NullDevice()], "as in training")
    rows += reading_rows(visible_devices() if on_gpu else [NullDevice()], "with all details")
    details: dict[str, Any] = {}
    path = arguments.output
    for cell, samples in _cells("cuda" if on_gpu else "cpu", quick=arguments.quick):
        setting = f"{cell}, batch {samples}"
        if arguments.only not in setting:
            continue
        print(f"{setting} ...", flush=True)
        # Operations that are given need not be counted anew after each turn.
        stats = GpuStats(blocks.interval_s, forward_flops=1.0)
        timer = SampledOrNot(stats, blocks)
        fit_one_batch(cell, samples, [timer, stats], build(cell, ENDLESS))
        found = overhead_rows(setting, timer.step_s[WITHOUT], timer.step_s[WITH], blocks)
        print(format_rows(found), flush=True)
        rows += found
        details[setting] = {f"{name}_s": times for name, times in timer.step_s.items()}
        path = save("telemetry", rows, arguments, parser, details)
    print(format_rows(rows))
    return Path(path)


def overhead_rows(
    setting: str, without: Sequence[float], with_it: Sequence[float], blocks: Blocks
) -> list[Row]:
    """Compare the steps beside which the device is sampled with those without.

    Args:
        setting: In words.
        without: Seconds of a step, one per block.
        with_it: The same with the callback.
        blocks: How they were timed.
    """
    ratio = paired_ratio(with_it, without)
    judged = verdict(ratio.low, ratio.high, _GOAL, ratio.pairs)
    setting = f"{setting}, a sample every {blocks.interval_s:g} s"
    return [
        Row("step, with GpuStats / without", setting, ratio.ratio, "ratio", ratio.low, ratio.high,
            _GOAL, judged)
    ]  # fmt: skip


def reading_rows(devices: Sequence[Device], setting: str) -> list[Row]:
    """Time single readings of all devices; the first one, which reads what is seldom, by itself.

    Args:
        devices: To be read.
        setting: In words.
    """
    times_ms = []
    for _ in range(_READINGS):
        began_s = time.perf_counter()
        for device in devices:
            device.read()
        times_ms.append(1000 * (time.perf_counter() - began_s))
    first_ms, *later_ms = times_ms
    setting = f"{len(devices)} device(s), {setting}"
    return [
        Row("first reading", setting, first_ms, "ms"),
        Row("reading, median", setting, statistics.median(later_ms), "ms"),
    ]


def _cells(device: str, *, quick: bool) -> list[tuple[Cell, int]]:
    if quick:
        return [(Cell("test_vit", 32, "none", "fp32", device), 8)]
    return [
        (Cell("resnet50", 224), 256),
        (Cell("convnext_base.fb_in22k_ft_in1k_384", 384), 64),
        (Cell("efficientnet_b0", 224), 64),  # the host is slower than an H200 there
    ]


def _mark(device: torch.device) -> Any:
    """Note the time: of the queue of a GPU, or of the host."""
    return CudaInstant(device) if device.type == "cuda" else Instant()
