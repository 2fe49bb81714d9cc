"""Fifteen views with the memory of a small card: does it run, in how much memory, for how long."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job import Job
from benchmarks.record import Row
from benchmarks.watched_prediction import WatchedPrediction, watch_prediction
from gpuopt.session.out_of_fold import read_rows

__all__ = ["Run", "measure_views", "view_rows"]

_SMALL_MIB, _LARGE_MIB = 6144, 24576
_POLICIES = {"none": 1, "essential": 5, "doc15": 15}  # views of each
_MOST_MEMORY = 1.05
_MOST_TIME = 3.1
_LEAST_S = 0.01
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
    small = {name: _run(job, images, name, _SMALL_MIB) for name in _POLICIES}
    large = _run(job, images, "doc15", _LARGE_MIB)
    rows = view_rows(small, large, job.files(images), is_gpu=job.device == "cuda")
    details = {
        f"{name}, {mib} MiB": {**run.watched.as_dict(), "peak_bytes": run.peak_bytes}
        for name, mib, run in (
            *((name, _SMALL_MIB, run) for name, run in small.items()),
            ("doc15", _LARGE_MIB, large),
        )
    }
    return rows, details


def view_rows(small: Mapping[str, Run], large: Run, setting: str, *, is_gpu: bool) -> list[Row]:
    """Turn the commands into figures.

    Args:
        small: With the memory of a small card, by name of the policy.
        large: Fifteen views with the memory of a large one.
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
    same = [fifteen.classes[name] == large.classes[name] for name in fifteen.classes]
    agreed, outcome = sum(same) / len(same), "met" if all(same) else "missed"
    difference = float(np.abs(fifteen.shares - large.shares).max())
    return [
        *rows,
        Row("images of the same class", cards, agreed, "share", goal=">= 1", verdict=outcome),
        Row("largest difference of a probability", cards, difference, ""),
    ]


def _predicting_s(run: Run) -> float:
    # Nothing is seen to take less time than between two looks.
    return max(run.watched.models_s + run.watched.batches_s, _LEAST_S)


def _run(job: Job, images: int, policy: str, memory_mib: int) -> Run:
    limit = [f"gpu.memory_limit_mib={memory_mib}"] if job.device == "cuda" else []
    words = job.words(images, f"tta={policy}", "engine=eager", *limit)
    output = job.new_output(f"{policy}_{memory_mib}")
    file = output.with_name("peak.json")
    job.forget_images()
    command = (sys.executable, "-m", "benchmarks.peak_memory", str(file))
    watched = watch_prediction(words, output, job.environment, command)
    print(f"{policy}, {memory_mib} MiB: {watched}", flush=True)
    peak = json.loads(file.read_text("utf-8"))["peak_bytes"]
    return Run(watched, int(peak), *_read(output))


def _read(output: Path) -> tuple[dict[str, str], Any]:
    _, rows = read_rows(output)
    shares = np.array([row[_FIRST_SHARE:] for row in rows], np.float64)
    return {row[0]: row[2] for row in rows}, shares
