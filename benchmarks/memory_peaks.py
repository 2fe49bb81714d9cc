"""Predicted against measured peak memory, and what recomputation costs in time."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from benchmarks.memory_cells import MODELS, Cell, Peak, release, setup_of, train_cell
from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.memory import predict_memory
from gpuopt.memory.device_errors import is_out_of_memory

__all__ = ["LEVELS", "OFFLOAD", "PeakOfCell", "StepClock", "main", "peak_rows"]

LEVELS = ("none", "stages=2", "full")
"""Of recomputation, the one that saves most last."""

OFFLOAD = "offload"
"""What the table calls an optimizer in host memory; needs torchao."""

_GOAL = "<= 0.05"
_GIB = 2**30
_BUDGETS_GIB = (6, 24)
_STEPS = 7
_WARMUP_STEPS = 3
_QUICK_MODELS = (("test_efficientnet", 32),)


@dataclass(frozen=True)
class PeakOfCell:
    """A cell's prediction and measurement.

    Attributes:
        cell: The network, in words.
        model: Its name with its size, the same for all levels.
        level: Of recomputation, or `OFFLOAD`.
        samples: Micro-batch size.
        predicted_bytes: By torch's allocator, without the CUDA context.
        allocated_bytes: Measured, live tensors.
        reserved_bytes: Measured, taken from the device.
        step_s: Median optimizer step in seconds.
    """

    cell: str
    model: str
    level: str
    samples: int
    predicted_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    step_s: float

    @property
    def error_ratio(self) -> float:
        """Predicted / measured - 1."""
        return self.predicted_bytes / self.allocated_bytes - 1


class StepClock(L.Callback):
    """Times the optimizer steps of a Trainer that takes one micro-batch for each.

    Attributes:
        step_s: Seconds of each step but the last, by the device's own clock on a GPU.
    """

    def __init__(self) -> None:
        self._marks: list[Any] = []
        self.step_s: list[float] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mark the beginning of a step."""
        if pl_module.device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
            self._marks.append(mark)
        else:
            self._marks.append(time.perf_counter())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the marks."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
            pairs = zip(self._marks, self._marks[1:], strict=False)
            self.step_s = [first.elapsed_time(second) / 1000 for first, second in pairs]
        else:
            self.step_s = [b - a for a, b in zip(self._marks, self._marks[1:], strict=False)]

    def median_s(self) -> float:
        """Return the median step, the first ones left out."""
        return statistics.median(self.step_s[_WARMUP_STEPS:] or self.step_s)


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory_peaks", description=__doc__)
    parser.add_argument(
        "--budget-s", type=float, default=300.0, help="measure nothing after this (default: 300)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        default=[""],
        help="networks and sizes with PART in their name, as 'resnet50 224'",
    )
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available() and not arguments.quick:
        parser.error("no CUDA device was found; --quick tests the program on a CPU")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    deadline_s = time.monotonic() + arguments.budget_s
    peaks: list[PeakOfCell] = []
    errors: dict[str, str] = {}
    path = arguments.output
    for cell, samples in _cells(device, arguments.only, quick=arguments.quick):
        if time.monotonic() > deadline_s:
            errors[f"{cell}, batch {samples}"] = "no time left"
            continue
        try:
            peaks.append(_measure(cell, samples))
        except Exception as error:
            errors[f"{cell}, batch {samples}"] = f"{type(error).__name__}: {error}"[:300]
            if not is_out_of_memory(error):
                print(f"{cell}: {error}")
        release()
        if peaks:
            print(_line(peaks[-1]), flush=True)
        # After each cell: a run that is cut off keeps what it has measured.
        details = {"peaks": [asdict(peak) for peak in peaks], "errors": errors}
        path = save("memory_peaks", peak_rows(peaks), arguments, parser, details)
    print(format_rows(peak_rows(peaks)))
    for name, reason in errors.items():
        print(f"failed: {name}: {reason}")
    return Path(path)


def _cells(device: str, only: Sequence[str], *, quick: bool) -> list[tuple[Cell, int]]:
    """List networks with two sizes each, a ViT with one, and batches that are expected to fit.

    All levels of one size take the same batches, so that their times compare.
    """
    cells = []
    precision = "bf16" if device == "cuda" else "fp32"
    for model, size in _QUICK_MODELS if quick else MODELS:
        smaller = size if quick or model.startswith("vit") else size - 96
        for pixels in dict.fromkeys((size, smaller)):
            plain = Cell(model, pixels, "none", precision, device)
            if not any(part in str(plain) for part in only):
                continue
            estimate = predict_memory(setup_of(plain))
            for budget_gib in _BUDGETS_GIB:
                samples = 4 if quick else estimate.largest_batch(budget_gib * _GIB)
                cells += [(replace(plain, checkpointing=level), samples) for level in LEVELS]
                if quick:
                    break
                if find_spec("torchao"):
                    cells.append((replace(plain, offload=True), samples))
    return cells


def _measure(cell: Cell, samples: int) -> PeakOfCell:
    clock = StepClock()
    predicted = predict_memory(setup_of(cell)).allocated_bytes(samples)
    peak: Peak = train_cell(cell, samples, _STEPS, callbacks=[clock])
    return PeakOfCell(
        cell=str(cell),
        model=str(replace(cell, checkpointing="none", offload=False)),
        level=OFFLOAD if cell.offload else cell.checkpointing,
        samples=samples,
        predicted_bytes=predicted,
        # A CPU's memory is not counted by torch: the program is only tested there.
        allocated_bytes=peak.allocated_bytes or predicted,
        reserved_bytes=peak.reserved_bytes or predicted,
        step_s=clock.median_s(),
    )


def _line(peak: PeakOfCell) -> str:
    return (
        f"{peak.cell}, batch {peak.samples}: predicted {peak.predicted_bytes / _GIB:.2f}, "
        f"allocated {peak.allocated_bytes / _GIB:.2f}, reserved {peak.reserved_bytes / _GIB:.2f} "
        f"GiB ({peak.error_ratio:+.1%}), step {1000 * peak.step_s:.1f} ms"
    )


def peak_rows(peaks: Sequence[PeakOfCell]) -> list[Row]:
    """Sum up how far predictions are off, and what each level saves and costs.

    Args:
        peaks: Of all cells, every level at the same batches.
    """
    if not peaks:
        return []
    worst = max(peaks, key=lambda peak: abs(peak.error_ratio))
    held = max(peaks, key=lambda peak: peak.reserved_bytes / peak.predicted_bytes)
    errors = [abs(peak.error_ratio) for peak in peaks]
    within = sum(error <= 0.05 for error in errors)
    count = f"{len(peaks)} cells"
    rows = [
        Row("largest |predicted / allocated - 1|", f"{count}; {worst.cell}, batch {worst.samples}",
            max(errors), "ratio", goal=_GOAL, verdict="met" if max(errors) <= 0.05 else "missed"),
        Row("mean |predicted / allocated - 1|", count, statistics.fmean(errors), "ratio"),
        Row("cells within 5 %", count, within / len(peaks), "share"),
        Row("largest reserved / predicted", f"{held.cell}, batch {held.samples}",
            held.reserved_bytes / held.predicted_bytes, "ratio"),
    ]  # fmt: skip
    return rows + _level_rows(peaks)


def _level_rows(peaks: Sequence[PeakOfCell]) -> list[Row]:
    """Compare levels at the largest batch that all of them have."""
    rows = []
    for model in dict.fromkeys(peak.model for peak in peaks):
        of_model = [peak for peak in peaks if peak.model == model]
        samples = max(peak.samples for peak in of_model)
        by_level = {peak.level: peak for peak in of_model if peak.samples == samples}
        plain = by_level.get("none")
        for level, peak in by_level.items():
            if plain is None or level == "none":
                continue
            what = "optimizer offloaded" if level == OFFLOAD else f"checkpointing {level}"
            setting = f"{model}, batch {samples}, {what} / none"
            figures: list[tuple[str, Callable[[PeakOfCell], float]]] = [
                ("peak memory", lambda one: one.allocated_bytes),
                ("step", lambda one: one.step_s),
            ]
            rows += [
                Row(name, setting, read(peak) / read(plain), "ratio") for name, read in figures
            ]
    return rows
