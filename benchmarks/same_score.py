"""One training on cards of 6, 8 and 24 GiB, emulated on one GPU: the same macro-F1?

The global batch is the same, the micro-batch is what each card takes. BatchNorm normalises by the
micro-batch, so its scores differ by more than chance may explain; with frozen statistics, as in a
network without it, gradients are the same but for rounding. The scores are compared on the same
resampled images, and beside them stands what the same card gives when it trains a second time.
"""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.commands import run_timed
from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.measure import paired_bootstrap_difference

__all__ = ["Scored", "main", "same_score_rows"]

_GIB = 1024
_CARDS_GIB = (24, 24, 8, 6)  # the first twice: by how much two runs differ anyhow
_COMMON = ("tta=none", "data=documents", "logger=none", "global_batch_size=256")
# Fine-tuned from the packaged weights.
_CASES = {
    "EfficientNet-Lite0 384 px, fine-tuned, batch norm": (
        "model=efficientnet_lite0", "image_size=384", "precision=bf16", "trainer.max_epochs=8",
    ),
    "EfficientNet-Lite0 384 px, fine-tuned, frozen statistics": (
        "model=efficientnet_lite0", "image_size=384", "precision=bf16", "trainer.max_epochs=8",
        "model.batch_norm=frozen",
    ),
}  # fmt: skip
_QUICK_CASES = {
    "quick": (
        "gpu=cpu", "data=digits", "model=timm", "model.name=test_vit", "model.pretrained=false",
        "image_size=32", "trainer.max_epochs=1", "trainer.max_steps=2",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """One run.

    Attributes:
        memory_gib: Of the emulated card.
        micro_batch_size: That it trained with in the end.
        macro_f1: On the test images.
        targets: Their classes, by name.
        predictions: What was predicted.
    """

    memory_gib: int
    micro_batch_size: int
    macro_f1: Mapping[str, float]
    targets: Sequence[str]
    predictions: Sequence[str]


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks same_score", description=__doc__)
    parser.add_argument("--only", default="", help="cases with this in their name")
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available() and not arguments.quick:
        parser.error("no CUDA device was found; --quick tests the program on a CPU")
    cases = _QUICK_CASES if arguments.quick else _CASES
    rows: list[Row] = []
    details: dict[str, Any] = {}
    path = arguments.output
    with tempfile.TemporaryDirectory() as name:
        for case, settings in cases.items():
            if arguments.only not in case:
                continue
            cards = _CARDS_GIB[-1:] * 2 if arguments.quick else _CARDS_GIB
            found = _run_cards(Path(name), settings, cards, limits_memory=not arguments.quick)
            rows += same_score_rows(case, found)
            details[case] = {
                "settings": [*_COMMON, *settings],
                "runs": [
                    {
                        "memory_gib": one.memory_gib,
                        "micro_batch_size": one.micro_batch_size,
                        "macro_f1": dict(one.macro_f1),
                    }
                    for one in found
                ],
            }
            print(format_rows(rows), flush=True)
            path = save("same_score", rows, arguments, parser, details)
    return Path(path)


def _run_cards(
    folder: Path, settings: Sequence[str], cards_gib: Sequence[int], *, limits_memory: bool
) -> list[Scored]:
    """Train on all cards at once: nothing is timed."""

    def run(memory_gib: int) -> Scored:
        place = Path(tempfile.mkdtemp(dir=folder))
        limit = [f"gpu.memory_limit_mib={memory_gib * _GIB}"] if limits_memory else []
        command = [sys.executable, "-m", "gpuopt.train", *_COMMON, *settings, *limit]
        done = run_timed([*command, f"run={place / 'run'}", f"cache_dir={folder / 'cache'}"], place)
        if done.exit_code:
            raise RuntimeError(f"{memory_gib} GiB: the command failed: {done.last_line}")
        return _scored(memory_gib, place / "run")

    with ThreadPoolExecutor(len(cards_gib)) as pool:
        return list(pool.map(run, cards_gib))


def _scored(memory_gib: int, run: Path) -> Scored:
    results = json.loads((run / "results.json").read_text("utf-8"))
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    return Scored(
        memory_gib,
        int(results["plan"]["micro_batch_size"]),
        results["metrics"]["macro_f1"],
        [line["target"] for line in lines],
        [line["prediction"] for line in lines],
    )


def same_score_rows(case: str, found: Sequence[Scored]) -> list[Row]:
    """Compare every card with the first.

    Args:
        case: Network and data, in words.
        found: Its runs, the largest card first.
    """
    reference, *others = found
    rows = [
        Row("macro-F1", f"{case}, {one.memory_gib} GiB, micro-batch {one.micro_batch_size}",
            one.macro_f1["value"], "", one.macro_f1["low"], one.macro_f1["high"])
        for one in found
    ]  # fmt: skip
    names = sorted({name for run in found for name in (*run.targets, *run.predictions)})
    targets = np.array([names.index(name) for name in reference.targets])
    for one in others:
        again = " again" if one.memory_gib == reference.memory_gib else ""
        setting = f"{case}, {one.memory_gib} GiB{again} against {reference.memory_gib} GiB"
        same = np.mean(np.array(one.predictions) == np.array(reference.predictions))
        first, second = (
            np.array([names.index(name) for name in run.predictions]) for run in (reference, one)
        )
        moved = paired_bootstrap_difference(targets, first, second)
        is_same = moved.low <= 0 <= moved.high
        rows += [
            Row("difference in macro-F1", setting, moved.value, "", moved.low, moved.high,
                "interval holds 0", "met" if is_same else "missed"),
            Row("test images predicted alike", setting, float(same), "share"),
        ]  # fmt: skip
    return rows
