"""The batch-size finder against the true maximum and against what others offer, on a GPU.

Each network on each emulated card is a process of its own, in which nothing is cached.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.batch_size_peers import Found, peers, timed
from benchmarks.memory_cells import (
    MODELS,
    Cell,
    build,
    capped,
    fits,
    images_of,
    largest_that_fits,
    setup_of,
    train_cell,
    trainer_of,
)
from benchmarks.memory_jobs import SharedMemory, TaskFailedError, run_task
from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.callbacks import BatchSizeFinder
from gpuopt.hardware import MEASURED_HEADROOM_RATIO, available_cpus
from gpuopt.memory import predict_memory
from gpuopt.memory.device_errors import is_out_of_memory

__all__ = ["GPUOPT", "Judged", "Task", "finder_rows", "main"]

GPUOPT = "gpuopt"
"""Name of the finder among the contestants."""

_GIB = 1024
_MEMORY_GIB = (6, 12, 24)
_ALL_MEMORY_GIB = (6, 8, 10, 12, 16, 24)
_STEPS_AFTERWARDS = 200
_QUICK_MODELS = (("test_vit", 32),)
_MEAN_GOAL, _MINIMUM_GOAL = 0.93, 0.85
_MOST_PROBES, _MOST_SECONDS = 4, 30.0
_LIMIT_S = 540.0


@dataclass(frozen=True)
class Task:
    """One network on one emulated card.

    Attributes:
        model: timm model name.
        image_size: Side in pixels.
        memory_gib: Of the card; None for no cap.
        has_peers: Whether the peers search as well.
    """

    model: str
    image_size: int
    memory_gib: int | None
    has_peers: bool

    def __str__(self) -> str:
        """Word it for a table."""
        card = "" if self.memory_gib is None else f", {self.memory_gib} GiB"
        return f"{self.model.partition('.')[0]} {self.image_size} px{card}"


@dataclass(frozen=True)
class Judged:
    """What came of one task.

    Attributes:
        task: In words.
        largest: The true maximum, by trying.
        found: Answers by contestant.
        survived: Whether 200 steps and a validation ran at gpuopt's answer; None if not tried.
        is_alone: Whether nothing else ran on the device: only then times count.
        probes: What each of gpuopt's probes measured.
    """

    task: str
    largest: int
    found: dict[str, Found]
    survived: bool | None
    is_alone: bool
    probes: tuple[dict[str, Any], ...] = ()


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available() and not arguments.quick:
        parser.error("no CUDA device was found; --quick tests the program on a CPU")
    if arguments.task:
        _run_task(json.loads(arguments.task), arguments.output, arguments.headroom)
        return Path(arguments.output)
    tasks = [
        replace(task, has_peers=task.has_peers and not arguments.no_peers)
        for task in _tasks(quick=arguments.quick, all_caps=arguments.all_caps)
        if any(part in str(task) for part in arguments.only or [""])
    ]
    if not tasks:
        parser.error(f"--only {' '.join(arguments.only)}: no task has that in its name")
    deadline_s = time.monotonic() + arguments.budget_s
    judged: list[Judged] = []
    errors: dict[str, str] = {}
    path = arguments.output
    shared, kept = SharedMemory.of_devices(), threading.Lock()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:

        def carry_out(task: Task, *, is_alone: bool) -> None:
            nonlocal path
            with shared.taken(task.memory_gib or 0) as device:
                threads = max(1, available_cpus() // (1 if is_alone else arguments.jobs))
                outcome = _judge(
                    task,
                    Path(folder),
                    deadline_s,
                    is_alone=is_alone,
                    device=device,
                    threads=threads,
                    headroom=arguments.headroom,
                )
            with kept:
                if isinstance(outcome, Judged):
                    judged.append(outcome)
                else:
                    errors[str(task)] = outcome
                details = {"judged": [asdict(one) for one in judged], "errors": errors}
                path = save("finder", finder_rows(judged), arguments, parser, details)

        carry_out(tasks[0], is_alone=True)
        waiting = [pool.submit(carry_out, task, is_alone=arguments.jobs == 1) for task in tasks[1:]]
        for one in waiting:
            one.result()
    print(format_rows(finder_rows(judged)))
    for name, reason in errors.items():
        print(f"failed: {name}: {reason}")
    return Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks finder", description=__doc__)
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="tasks at once on all GPUs",
    )
    parser.add_argument("--budget-s", type=float, default=_LIMIT_S, help="start nothing after this")
    parser.add_argument(
        "--headroom",
        type=float,
        default=MEASURED_HEADROOM_RATIO,
        help="share of the card that gpuopt's finder keeps free (default: %(default)s)",
    )
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="tasks with PART in their name, as 'resnet50'"
    )
    parser.add_argument("--no-peers", action="store_true", help="only gpuopt's finder")
    parser.add_argument("--all-caps", action="store_true", help="6, 8, 10, 12, 16 and 24 GiB")
    add_common_arguments(parser)
    return parser


def _tasks(*, quick: bool, all_caps: bool) -> list[Task]:
    """List the tasks: every network with peers once, ConvNeXt-Base first."""
    if quick:
        return [Task(*model, None, has_peers=True) for model in _QUICK_MODELS]
    sizes = _ALL_MEMORY_GIB if all_caps else _MEMORY_GIB
    tasks = []
    for number, (model, pixels) in enumerate(MODELS):
        with_peers = sizes[-1 - number % len(sizes)]
        tasks += [Task(model, pixels, gib, gib == with_peers) for gib in sizes]
    return sorted(tasks, key=lambda task: not task.has_peers)


def _judge(
    task: Task,
    folder: Path,
    deadline_s: float,
    *,
    is_alone: bool,
    device: int,
    threads: int,
    headroom: float,
) -> Judged | str:
    """Carry out a task; returns what came of it, or why nothing did."""
    if time.monotonic() > deadline_s:
        return "no time left"
    try:
        content = run_task(
            "finder",
            asdict(task),
            folder / f"{abs(hash(task))}.json",
            device=device,
            threads=threads,
            words=["--headroom", str(headroom)],
        )
    except TaskFailedError as error:
        print(f"{task}: {error}", flush=True)
        return str(error)
    found = {name: Found(**one) for name, one in content["found"].items()}
    probes = tuple(content["probes"])
    answers = ", ".join(f"{name} {_word(one)}" for name, one in found.items())
    print(
        f"{task}: true {content['largest']}, {answers}, 200 steps: {content['survived']}",
        flush=True,
    )
    return Judged(str(task), content["largest"], found, content["survived"], is_alone, probes)


def _word(found: Found) -> str:
    failed = f" {found.note}" if found.note else ""
    return (
        f"{found.batch_size} ({found.probes} probes, {found.errors} OOMs, "
        f"{found.duration_s:.1f} s){failed}"
    )


def _run_task(content: Mapping[str, Any], target: Path, headroom: float) -> None:
    """Carry out one task in this process, and write what came of it."""
    task = Task(**content)
    is_cuda = torch.cuda.is_available()
    cell = Cell(
        task.model,
        task.image_size,
        precision="bf16" if is_cuda else "fp32",
        device="cuda" if is_cuda else "cpu",
    )
    memory_mib = None if task.memory_gib is None else task.memory_gib * _GIB
    own, probes = _gpuopt(cell, memory_mib, headroom)
    found = {GPUOPT: own}
    start = max(1, found[GPUOPT].batch_size)
    with capped(memory_mib):
        survived = _survives(cell, start) if found[GPUOPT].batch_size else None
        largest = largest_that_fits(lambda n: fits(cell, n), start) if is_cuda else start
    if task.has_peers:
        found |= {name: peer(cell, memory_mib) for name, peer in peers().items()}
    written = {
        "largest": largest,
        "found": {name: asdict(one) for name, one in found.items()},
        "survived": survived,
        "probes": probes,
    }
    target.write_text(json.dumps(written), "utf-8")


def _gpuopt(
    cell: Cell, memory_mib: int | None, headroom: float
) -> tuple[Found, list[dict[str, Any]]]:
    """Let the finder search as in anybody's Trainer; nothing is predicted beforehand."""
    model, data = build(cell, 10_000), images_of(cell, 8, 10)
    probes: list[dict[str, Any]] = []

    def search() -> tuple[int, int]:
        with tempfile.TemporaryDirectory() as cache:
            prior = predict_memory(setup_of(cell), cache_dir=cache)
        finder = BatchSizeFinder(
            prior=prior, find_only=True, set_batch_size=lambda size: None, headroom_ratio=headroom
        )
        trainer_of(cell, [finder]).fit(model, datamodule=data)
        if finder.result is None:  # without a CUDA device nothing is measured
            return 8, 0
        probes.extend(probe.as_dict() for probe in finder.result.probes)
        return finder.result.largest, len(finder.result.probes)

    return timed(search, memory_mib), probes


def _survives(cell: Cell, samples: int) -> bool:
    try:
        train_cell(cell, samples, _STEPS_AFTERWARDS if cell.device == "cuda" else 2)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def finder_rows(judged: Sequence[Judged]) -> list[Row]:
    """Sum up all tasks.

    Args:
        judged: What came of each.
    """
    if not judged:
        return []
    rows = []
    ours = [(one, one.found[GPUOPT]) for one in judged]
    shares = [found.batch_size / one.largest for one, found in ours if one.largest]
    close = [_is_close(found, one) for one, found in ours]
    count = f"{len(ours)} networks and cards"
    if shares:
        mean = statistics.fmean(shares)
        rows.append(_judged_row("found / true maximum, mean", count, mean, _MEAN_GOAL))
        rows.append(
            Row("found / true maximum, least", count, min(shares), "ratio",
                goal=f">= {_MINIMUM_GOAL} or within one sample",
                verdict="met" if all(close) else "missed")
        )  # fmt: skip
    probes = max(found.probes for _, found in ours)
    errors = sum(found.errors for _, found in ours)
    rows.append(Row("probes, most", count, probes, "", goal=f"<= {_MOST_PROBES}",
                    verdict="met" if probes <= _MOST_PROBES else "missed"))  # fmt: skip
    rows.append(Row("out-of-memory errors", count, errors, "", goal="<= 0",
                    verdict="met" if errors == 0 else "missed"))  # fmt: skip
    survived = [one.survived for one in judged if one.survived is not None]
    if survived:
        share = sum(survived) / len(survived)
        rows.append(
            Row("200 steps and a validation without running out", count, share, "share",
                goal=">= 1", verdict="met" if share == 1 else "missed")
        )  # fmt: skip
    return rows + _contestant_rows(judged)


def _is_close(found: Found, one: Judged) -> bool:
    return found.batch_size >= _MINIMUM_GOAL * one.largest or one.largest - found.batch_size <= 1


def _judged_row(measure: str, setting: str, value: float, goal: float) -> Row:
    return Row(measure, setting, value, "ratio", goal=f">= {goal}",
               verdict="met" if value >= goal else "missed")  # fmt: skip


def _contestant_rows(judged: Sequence[Judged]) -> list[Row]:
    """Show every column of every contestant where all of them searched."""
    rows = []
    for one in judged:
        if len(one.found) == 1 and not one.is_alone:
            continue
        for name, found in one.found.items():
            setting = f"{one.task}, {name}"
            share = found.batch_size / one.largest if one.largest else 0.0
            rows += [
                Row("answer / true maximum", setting, share, "ratio"),
                Row("probes", setting, found.probes, ""),
                Row("out-of-memory errors of one search", setting, found.errors, ""),
            ]
            if one.is_alone:
                is_met = found.duration_s <= _MOST_SECONDS
                goal = f"<= {_MOST_SECONDS:.0f}" if name == GPUOPT else None
                judgement = ("met" if is_met else "missed") if goal else None
                rows.append(
                    Row("duration", setting, found.duration_s, "s", None, None, goal, judgement)
                )
    return rows
