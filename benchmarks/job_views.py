"""Fifteen views with the memory of a small card: does it run, in how much memory, for how long.

All policies have the chunk that fifteen views choose, as memory goes by the chunk. Networks here
have random weights, and their heads magnify what half precision rounds: that images stay in their
class is therefore compared in fp32 as well, which is slower, with fewer of them.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job import Job
from benchmarks.record import Row
from benchmarks.watched_prediction import WatchedPrediction, watch_prediction
from gpuopt.session.out_of_fold import read_rows

__all__ = ["Run", "measure_views", "view_rows"]

_MIB = _SMALL_MIB, _LARGE_MIB = 6144, 24576
_POLICIES = {"none": 1, "essential": 5, "doc15": 15}  # views of each
_MOST_MEMORY = 1.05
_MOST_TIME = 3.1
_LEAST_S = 0.01
_EXACT_IMAGES = 64
_FIRST_SHARE = 4  # of the columns: id, target, prediction, confidence


@dataclass(frozen=True, eq=False)
class Run:
    """One command.

    Attributes:
        watched: Its times.
        peak_bytes: The most that its tensors took on the GPU; on a CPU, that its process took.
        classes: Predicted class by image.
        shares: Probabilities, float64 [n, classes], in the same order.
    """

    watched: WatchedPrediction
    peak_bytes: int
    classes: Mapping[str, str]
    shares: Any


def measure_views(job: Job, arguments: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Predict with one, five and fifteen views as a small card would, and fifteen as a large one.

    Args:
        job: What is predicted.
        arguments: `view_images`.
    """
    images = arguments.view_images
    fifteen = _run(job, images, "doc15", _SMALL_MIB)
    chunk = _chunk_words(fifteen.watched.lines)
    small = {
        name: fifteen if name == "doc15" else _run(job, images, name, _SMALL_MIB, *chunk)
        for name in _POLICIES
    }
    large = _run(job, images, "doc15", _LARGE_MIB)
    exact = fifteen, large
    if job.device == "cuda":  # a CPU has no other precision
        few = min(images, _EXACT_IMAGES)
        exact = (
            _run(job, few, "doc15", _SMALL_MIB, "precision=fp32"),
            _run(job, few, "doc15", _LARGE_MIB, "precision=fp32"),
        )
    rows = view_rows(small, large, exact, job.files(images), is_gpu=job.device == "cuda")
    runs = {f"{name}, {_SMALL_MIB} MiB": run for name, run in small.items()}
    runs[f"doc15, {_LARGE_MIB} MiB"] = large
    runs |= {f"doc15 in fp32, {mib} MiB": run for mib, run in zip(_MIB, exact, strict=True)}
    details = {
        name: {**run.watched.as_dict(), "peak_bytes": run.peak_bytes} for name, run in runs.items()
    }
    return rows, details


def view_rows(
    small: Mapping[str, Run],
    large: Run,
    exact: tuple[Run, Run],
    setting: str,
    *,
    is_gpu: bool,
) -> list[Row]:
    """Turn the commands into figures.

    Args:
        small: With the memory of a small card, by name of the policy.
        large: Fifteen views with the memory of a large one.
        exact: Fifteen views with the memory of a small and of a large one in fp32.
        setting: Of all, in words.
        is_gpu: Whether memory was that of a card, which the goals are for.
    """
    one, five, fifteen = (small[name] for name in _POLICIES)
    places = ("6 GiB", "6 and 24 GiB") if is_gpu else ("cpu", "cpu, twice")
    card, cards = (f"{setting}, {place}" for place in places)
    of = "tensors on the card" if is_gpu else "the process"
    rows = []
    for run, views in zip((one, five, fifteen), _POLICIES.values(), strict=True):
        peak_gib = run.peak_bytes / 2**30
        rows += [
            Row(f"peak memory of {of}, {views} view{'s' * (views > 1)}", card, peak_gib, "GiB"),
            Row(f"whole command, {views} view{'s' * (views > 1)}", card, run.watched.wall_s, "s"),
        ]
    # Start and end are alike for all views: without them the ratio of times is larger.
    ratios = {
        "peak memory, 15 views / 1 view": (fifteen.peak_bytes / one.peak_bytes, _MOST_MEMORY),
        "time, 15 views / 5 views": (fifteen.watched.wall_s / five.watched.wall_s, _MOST_TIME),
        "time without start and end, 15 views / 5 views": (
            _predicting_s(fifteen) / _predicting_s(five),
            _MOST_TIME,
        ),
    }
    for measure, (value, limit) in ratios.items():
        goal, outcome = f"<= {limit:g}", "met" if value <= limit else "missed"
        rows.append(
            Row(measure, card, value, "ratio", goal=goal, verdict=outcome)
            if is_gpu
            else Row(measure, card, value, "ratio")
        )
    rows += _difference_rows(exact, f"{cards}, fp32", has_goal=True)
    if is_gpu:
        rows += _difference_rows((fifteen, large), f"{cards}, half precision", has_goal=False)
    return rows


def _difference_rows(pair: tuple[Run, Run], setting: str, *, has_goal: bool) -> list[Row]:
    """Compare what two commands predicted for the same images."""
    first, second = pair
    same = [first.classes[name] == second.classes[name] for name in first.classes]
    setting = f"{setting}, {len(same)} compared"
    agreed = Row("images of the same class", setting, sum(same) / len(same), "share")
    if has_goal:
        agreed = replace(agreed, goal=">= 1", verdict="met" if all(same) else "missed")
    difference = float(np.abs(first.shares - second.shares).max())
    return [agreed, Row("largest difference of a probability", setting, difference, "")]


def _predicting_s(run: Run) -> float:
    # Nothing is seen to take less time than between two looks.
    return max(run.watched.models_s + run.watched.batches_s, _LEAST_S)


def _chunk_words(lines: Sequence[str]) -> list[str]:
    """Give the chunk that a command chose, as a setting of the next."""
    found = (re.match(r"(tta\.chunk_size=\d+) ", line) for line in lines)
    return [match.group(1) for match in found if match][:1]


def _run(job: Job, images: int, policy: str, memory_mib: int, *more: str) -> Run:
    limit = [f"gpu.memory_limit_mib={memory_mib}"] if job.device == "cuda" else []
    words = job.words(images, f"tta={policy}", "engine=eager", *limit, *more)
    output = job.new_output(f"{policy}_{memory_mib}")
    file = output.with_name("peak.json")
    job.forget_images()
    command = (sys.executable, "-m", "benchmarks.peak_memory", str(file))
    watched = watch_prediction(words, output, job.environment, command)
    print(f"{' '.join((policy, *more))}, {memory_mib} MiB: {watched}", flush=True)
    peak = json.loads(file.read_text("utf-8"))["peak_bytes"]
    return Run(watched, int(peak), *_read(output))


def _read(output: Path) -> tuple[dict[str, str], Any]:
    _, rows = read_rows(output)
    shares = np.array([row[_FIRST_SHARE:] for row in rows], np.float64)
    return {row[0]: row[2] for row in rows}, shares
