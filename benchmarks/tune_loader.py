"""The search of `gpuopt tune target=loader` against the exhaustive grid of worker counts."""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from benchmarks.jpeg_files import FILE_SETS, make_files
from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.measure.pairs import abba_orders, paired_ratio, verdict
from gpuopt.tuning.loader_setting import LoaderSetting
from gpuopt.tuning.loader_timing import LoaderTiming
from gpuopt.tuning.round_clock import RoundLimits

__all__ = ["GRID", "PlannedImages", "main"]

GRID = (0, 2, 4, 8, 16)
"""The numbers of processes that the grid tries."""

_SPEED_GOAL, _TIME_GOAL = ">= 0.97", "<= 0.3333"
_PIXELS = 64
# Milliseconds of a processor and of waiting for a disk that a sample takes.
_PLANNED = {"in memory": (0.0, 0.0), "slow to decode": (2.0, 0.0), "on a slow disk": (0.1, 8.0)}
_FILES = "JPEG files"


@dataclass
class Round:
    """One grid and one search, and then the best of both in turns.

    Attributes:
        grid_s: Seconds that the grid took.
        search_s: Seconds that the search took.
        best: Processes that the grid found best.
        chosen: Processes that the search chose.
        best_s: Seconds of a sample with the grid's best, measured again.
        chosen_s: The same with what the search chose.
        probes: Of the search.
    """

    grid_s: float
    search_s: float
    best: int
    chosen: int
    best_s: float
    chosen_s: float
    probes: int


class PlannedImages(Dataset[tuple[Tensor, int]]):
    """Images that take a planned time to read.

    Args:
        cpu_ms: Milliseconds of a processor that each takes.
        wait_ms: Milliseconds that each waits before.
        images: Their number.
    """

    def __init__(self, cpu_ms: float, wait_ms: float, images: int = 1 << 20) -> None:
        self._cpu_s = cpu_ms / 1000
        self._wait_s = wait_ms / 1000
        self._images = images

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Wait, work, and return an image of zeros."""
        if self._wait_s:
            time.sleep(self._wait_s)
        began_s = time.thread_time()
        while time.thread_time() - began_s < self._cpu_s:
            pass
        return torch.zeros(3, _PIXELS, _PIXELS, dtype=torch.uint8), row % 10


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.rounds, arguments.batches, arguments.batch_size = 2, 8, 4
        arguments.files, arguments.demand, arguments.grid = 24, 1000.0, [0, 1]
    torch.set_num_threads(1)  # as in loader processes, for the one that loads in this process
    rows: list[Row] = []
    details: dict[str, Any] = {}
    path = arguments.output
    with tempfile.TemporaryDirectory() as folder:
        for name, dataset in _datasets(Path(folder), arguments.files, arguments.data):
            rounds = _measure(dataset, arguments)
            details[name] = [vars(round_) for round_ in rounds]
            rows += _rows(name, rounds, arguments.demand)
            print(format_rows(rows[-3:]), flush=True)
            # Each takes minutes, and what is measured is not lost with the next.
            path = save("tune_loader", rows, arguments, parser, {"rounds": details})
    return Path(path)


def _datasets(folder: Path, files: int, names: Sequence[str]) -> list[tuple[str, Dataset[Any]]]:
    found: list[tuple[str, Dataset[Any]]] = [
        (name, PlannedImages(*times_ms)) for name, times_ms in _PLANNED.items() if name in names
    ]
    if _FILES in names:
        root = make_files(FILE_SETS[0], folder, files)
        steps = [transforms.Resize((_PIXELS, _PIXELS)), transforms.PILToTensor()]
        pictures = datasets.ImageFolder(str(root / "train"), transforms.Compose(steps))
        found.append((_FILES, pictures))
    return found


def _measure(dataset: Dataset[Any], arguments: argparse.Namespace) -> list[Round]:
    make_loader = _maker(dataset, arguments.batch_size)
    device_s = arguments.batch_size / arguments.demand

    def consume(batch: Any) -> None:
        time.sleep(device_s)  # a device that computes takes no processor

    batches = arguments.batches
    fixed = RoundLimits(0.0, 1e9, batches, stops_when_steady=False)
    exhaustive = LoaderTiming(make_loader, consume, limits=fixed)
    least_s = 0.0 if arguments.quick else 0.5
    until_steady = RoundLimits(least_s, 1e9, batches)
    quick = LoaderTiming(make_loader, consume, limits=until_steady)
    # What the device takes when it never waits, sleeping being longer than it was asked to be.
    started_s = time.perf_counter()
    for _ in range(batches):
        consume(None)
    demand = batches * arguments.batch_size / (time.perf_counter() - started_s)

    def run_grid() -> int:
        grid: list[int] = arguments.grid
        speeds = {n: exhaustive.probe(LoaderSetting(n)).samples_per_second for n in grid}
        return max(speeds, key=lambda number: speeds[number])

    rounds = []
    for number, order in enumerate(abba_orders(("grid", "search"), arguments.rounds)):
        seconds: dict[str, float] = {}
        best, result = 0, None
        for name in order:
            began_s = time.perf_counter()
            if name == "grid":
                best = run_grid()
            else:
                result = quick.tune(demand=demand)
            seconds[name] = time.perf_counter() - began_s
        assert result is not None  # both names are in the order
        pair = {"best": LoaderSetting(best), "chosen": result.setting}
        turns = tuple(pair) if number % 2 else tuple(pair)[::-1]
        speeds = {name: exhaustive.probe(pair[name]).samples_per_second for name in turns}
        rounds.append(
            Round(
                grid_s=seconds["grid"],
                search_s=seconds["search"],
                best=best,
                chosen=result.setting.num_workers,
                best_s=1 / speeds["best"],
                chosen_s=1 / speeds["chosen"],
                probes=len(result.probes),
            )
        )
    return rounds


def _maker(dataset: Dataset[Any], batch_size: int) -> Callable[[LoaderSetting], Any]:
    def make(setting: LoaderSetting) -> DataLoader[Any]:
        return DataLoader(
            dataset, batch_size=batch_size, shuffle=True, **setting.loader_arguments()
        )

    return make


def _rows(name: str, rounds: Sequence[Round], demand: float) -> list[Row]:
    setting = f"{name}, device takes {demand:.0f} samples/s, {os.cpu_count()} processors"
    speed = paired_ratio([r.best_s for r in rounds], [r.chosen_s for r in rounds])
    cost = paired_ratio([r.search_s for r in rounds], [r.grid_s for r in rounds])
    usual = {key: Counter(getattr(r, key) for r in rounds) for key in ("chosen", "best")}
    words = {key: counts.most_common(1)[0][0] for key, counts in usual.items()}
    return [
        Row(
            f"speed, found ({words['chosen']} workers) / best of the grid ({words['best']})",
            setting,
            speed.ratio,
            "ratio",
            speed.low,
            speed.high,
            _SPEED_GOAL,
            verdict(speed.low, speed.high, _SPEED_GOAL, speed.pairs),
        ),
        Row(
            "time, search / grid",
            setting,
            cost.ratio,
            "ratio",
            cost.low,
            cost.high,
            _TIME_GOAL,
            verdict(cost.low, cost.high, _TIME_GOAL, cost.pairs),
        ),
        Row("probes of the search, most", setting, max(r.probes for r in rounds), ""),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tune_loader", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="grids and searches of each data set")
    parser.add_argument("--batches", type=int, default=100, help="timed batches of each setting")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--demand", type=float, default=1200.0, help="samples/s of the device")
    parser.add_argument("--grid", type=int, nargs="+", default=list(GRID), help="processes")
    names = [*_PLANNED, _FILES]
    parser.add_argument("--data", nargs="+", default=names, choices=names)
    parser.add_argument("--files", type=int, default=512, help="JPEG files")
    add_common_arguments(parser)
    return parser
