"""Time until help is shown, a bad option is refused, and a report on the machine is there.

Reports are made with nothing cached, as on the first day.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import console_command, run_timed
from benchmarks.record import Row, add_common_arguments, format_rows, save

__all__ = ["Start", "main", "start_rows", "starts", "time_starts"]


_REPORTS = ("summary", "detailed", "recommend", "matrix", "drivers", "fit", "tta")


@dataclass(frozen=True)
class Start:
    """A command that ends soon.

    Attributes:
        name: As a person types it.
        words: What is run.
        exit_code: That it must end with.
        goal: On its slowest run, in seconds.
        most_runs: For commands of several seconds; None runs it as often as asked.
    """

    name: str
    words: tuple[str, ...]
    exit_code: int
    goal: str | None = None
    most_runs: int | None = None


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="timed runs of each command")
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.runs = 1
    rows: list[Row] = []
    details = {}
    for start in starts()[: 2 if arguments.quick else None]:
        runs = min(arguments.runs, start.most_runs or arguments.runs)
        details[start.name] = time_starts(start, runs, with_warmup=not arguments.quick)
        rows += start_rows(start, details[start.name])
    path = save("startup", rows, arguments, parser, {"run_s": details})
    print(format_rows(rows))
    return path


def starts() -> list[Start]:
    """List the commands, the bare interpreter first as the floor below all of them."""
    train = (sys.executable, "-m", "gpuopt.train")
    check = (sys.executable, "-m", "gpuopt.check", "cache_dir=cache")  # in the empty folder
    return [
        Start("python -c pass", (sys.executable, "-c", "pass"), 0),
        Start("gpuopt --help", (*console_command(), "--help"), 0, "<= 0.5"),
        Start("python -m gpuopt.train --help", (*train, "--help"), 0, "<= 2"),
        Start("python -m gpuopt.train gpu=rtx3061", (*train, "gpu=rtx3061"), 2),
        Start("python -m gpuopt.train micro_batch_size=-1", (*train, "micro_batch_size=-1"), 2),
        Start("python -m gpuopt.train --use_amp", (*train, "--use_amp"), 2),
        *(
            Start(f"gpuopt check report={name}", (*check, f"report={name}"), 0, "<= 10", 3)
            for name in _REPORTS
        ),
    ]


def time_starts(start: Start, runs: int, *, with_warmup: bool) -> list[float]:
    """Run a command several times, each in an empty folder.

    Args:
        start: The command.
        runs: Timed runs.
        with_warmup: Run once before, so that files are cached and compiled.

    Returns:
        Durations in seconds.

    Raises:
        RuntimeError: When it ends with another exit code.
    """
    run_s = []
    for _ in range(runs + with_warmup):
        with tempfile.TemporaryDirectory() as folder:
            done = run_timed(start.words, Path(folder))
        if done.exit_code != start.exit_code:
            raise RuntimeError(f"{start.name} ended with {done.exit_code}: {done.last_line}")
        run_s.append(done.duration_s)
    return run_s[-runs:]


def start_rows(start: Start, run_s: Sequence[float]) -> list[Row]:
    """Turn durations into the median and the slowest run; the goal holds for the slowest."""
    setting = f"{len(run_s)} runs"
    slowest_s = max(run_s)
    outcome = None
    if start.goal is not None:
        outcome = "met" if slowest_s <= float(start.goal.partition(" ")[2]) else "missed"
    return [
        Row(f"{start.name}, median", setting, statistics.median(run_s), "s"),
        Row(f"{start.name}, slowest", setting, slowest_s, "s", goal=start.goal, verdict=outcome),
    ]
