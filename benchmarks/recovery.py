"""Memory that shrinks in mid-epoch: what recovery does to the weights, and what it costs unused."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from benchmarks.memory_cells import Cell, build, release, train_cell
from benchmarks.record import Row, add_common_arguments, format_rows, save
from benchmarks.recovery_overhead import WITH, WITHOUT, Blocks, time_blocks
from gpuopt.callbacks import OomRecovery
from gpuopt.measure.pairs import paired_ratio, verdict

__all__ = ["SqueezeAt", "difference", "main", "overhead_rows"]

_WEIGHTS_GOAL, _OVERHEAD_GOAL = "<= 1e-06", "<= 1.01"
_STEPS, _SQUEEZED_STEP = 12, 5
# Of the timed blocks of one network; all of the program takes about four minutes on an H200.
_BUDGET_S = 25.0
_QUICK_BLOCKS = Blocks(pairs=3, steps=3)
# What is left of the memory that the steps before took, above what stays between two steps.
_SQUEEZED_RATIO = 0.6


class SqueezeAt(L.Callback):
    """Takes memory away in mid-epoch, as another process does, by lowering the allocator's cap.

    Args:
        step: Before which it happens.

    Attributes:
        limit_bytes: What was left, or 0 before.
    """

    def __init__(self, step: int) -> None:
        self.limit_bytes = 0
        self._step = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lower the cap."""
        if batch_idx != self._step or pl_module.device.type != "cuda":
            return
        resident = torch.cuda.memory_allocated()
        peak = torch.cuda.max_memory_allocated()
        self.limit_bytes = int(resident + _SQUEEZED_RATIO * (peak - resident))
        release()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.memory.set_per_process_memory_fraction(self.limit_bytes / total)


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks recovery", description=__doc__)
    parser.add_argument("--budget-s", type=float, default=_BUDGET_S, help="timing of one network")
    parser.add_argument("--only", default="", help="overhead of networks with this in their name")
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available() and not arguments.quick:
        parser.error("no CUDA device was found; --quick tests the program on a CPU")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    details: dict[str, Any] = {}
    quick = arguments.quick
    path = arguments.output
    if not arguments.only:
        exact = Cell("test_vit", 32, "none", "fp32", device) if quick else _EXACT
        print("squeezed ...", flush=True)
        found, details["squeezed"] = _squeezed(exact, 8 if quick else 64)
        rows += found
        print(format_rows(found), details, flush=True)
        path = save("recovery", rows, arguments, parser, details)
    for cell, samples in _overhead_cells(device, quick=quick):
        if arguments.only not in f"{cell}, batch {samples}":
            continue
        print(f"overhead of {cell} ...", flush=True)
        timer = time_blocks(
            cell, samples, budget_s=arguments.budget_s, blocks=_QUICK_BLOCKS if quick else None
        )
        found = overhead_rows(f"{cell}, batch {samples}", timer.step_s[WITHOUT], timer.step_s[WITH])
        print(format_rows(found), timer.blocks, flush=True)
        assert timer.blocks is not None  # settled before the first block
        rows += found
        steps = {f"{name}_s": times for name, times in timer.step_s.items()}
        details[f"{cell}, batch {samples}"] = {
            **steps,
            "timed_steps_of_a_block": timer.blocks.steps,
        }
        path = save("recovery", rows, arguments, parser, details)
    print(format_rows(rows))
    return Path(path)


_EXACT = Cell("vit_base_patch16_224", 224, "none", "fp32")


def _overhead_cells(device: str, *, quick: bool) -> list[tuple[Cell, int]]:
    if quick:
        return [(Cell("test_vit", 32, "none", "fp32", device), 8)]
    return [
        (Cell("convnext_base.fb_in22k_ft_in1k_384", 384), 64),
        (Cell("resnet50", 224), 128),
        (Cell("resnet50", 224), 256),
        (Cell("efficientnet_b0", 224), 64),  # the host is slower than an H200 there
        (Cell("efficientnet_b0", 224), 256),
    ]


def _squeezed(cell: Cell, samples: int) -> tuple[list[Row], dict[str, Any]]:
    """Compare a run whose memory shrinks with one that keeps it, and with itself."""
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first = _weights(cell, samples, [OomRecovery()])
        again = _weights(cell, samples, [OomRecovery()])
        recovery, squeeze = OomRecovery(), SqueezeAt(_SQUEEZED_STEP)
        squeezed = _weights(cell, samples, [recovery, squeeze])
    finally:
        torch.use_deterministic_algorithms(was)
        if cell.device == "cuda":
            torch.cuda.memory.set_per_process_memory_fraction(1.0)
    release()
    moved = difference(first, squeezed)
    setting = f"{cell}, batch {samples}, {_STEPS} steps, memory cut before step {_SQUEEZED_STEP}"
    rows = [
        Row("weights, cut / uncut, relative difference", setting, moved, "ratio",
            goal=_WEIGHTS_GOAL, verdict="met" if moved <= 1e-6 else "missed"),
        Row("weights, the same run twice, relative difference", setting,
            difference(first, again), "ratio"),
        Row("samples at a time in the end", setting,
            recovery.summary()["final_micro_batch_size"] or samples, ""),
    ]  # fmt: skip
    return rows, {"events": recovery.events, "limit_bytes": squeeze.limit_bytes}


def _weights(cell: Cell, samples: int, callbacks: list[L.Callback]) -> dict[str, Tensor]:
    model = build(cell, _STEPS)
    train_cell(cell, samples, _STEPS, model=model, callbacks=callbacks)
    return {name: value.detach().cpu().double() for name, value in model.named_parameters()}


def difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Return ||left - right|| / ||left|| over all parameters together."""
    apart = sum(float((value - right[name]).square().sum()) for name, value in left.items())
    size = sum(float(value.square().sum()) for value in left.values())
    return float((apart / size) ** 0.5)


def overhead_rows(setting: str, without: Sequence[float], with_it: Sequence[float]) -> list[Row]:
    """Compare the steps with recovery, which nothing called for, with those without.

    Args:
        setting: In words.
        without: Seconds of a step, one per block.
        with_it: The same with the callback.
    """
    ratio = paired_ratio(with_it, without)
    judged = verdict(ratio.low, ratio.high, _OVERHEAD_GOAL, ratio.pairs)
    return [
        Row("step, with recovery / without", setting, ratio.ratio, "ratio", ratio.low, ratio.high,
            _OVERHEAD_GOAL, judged)
    ]  # fmt: skip
