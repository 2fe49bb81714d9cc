"""Runs killed at random, resumed, and compared to the bit with runs that nothing disturbed."""

import argparse
import contextlib
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.hardware import available_cpus
from tests.faults.commands import Command, fault
from tests.faults.fingerprint import fingerprint

__all__ = ["CASES", "VICTIMS", "Chain", "main", "rows_of", "run_chain"]

# A network of 0.5 M parameters on real digits, with dropout; saves every other step.
_SMALL = (
    *("data=digits", "model=timm", "model.name=test_vit", "model.pretrained=false"),
    *("model.drop_rate=0.2", "image_size=32", "gpu=cpu", "tta=none", "logger=none"),
    *("trainer.max_epochs=6", "callbacks.checkpoint.every_n_steps=2"),
)
_AVERAGED = "callbacks.moving_average.enabled=true"
_MIXED = "data.mixup_alpha=0.4"
_ONE = ("micro_batch_size=128", "global_batch_size=128")
_THREE = ("micro_batch_size=32", "global_batch_size=96")

CASES: Mapping[str, tuple[str, ...]] = {
    "0 workers": ("num_workers=0", *_ONE),
    "2 workers": ("num_workers=2", *_ONE),
    "averaging": ("num_workers=0", _AVERAGED, *_ONE),
    "mixing, 2 workers": ("num_workers=2", _MIXED, *_ONE),
    "accumulation of 3": ("num_workers=0", *_THREE),
    "all of these": ("num_workers=2", _AVERAGED, _MIXED, *_THREE),
    "2 folds, averaging": ("folds=2", "trainer.max_epochs=3", "num_workers=0", _AVERAGED, *_ONE),
    "2 ranks, averaging, mixing": (
        "trainer.devices=2", "num_workers=0", _AVERAGED, _MIXED,
        "micro_batch_size=32", "global_batch_size=128",
    ),
}  # fmt: skip

_LIMIT_S = 300.0  # a command that has not ended by then hangs, two ranks on a busy machine, too
# Of the kills some are aimed at moments that a random time would rarely meet.
_AIMED_RATIO = 0.35
_AIMS = (
    ("writing a file", "half"),
    ("keeping the one before", "kill"),
    ("vouching", "kill"),
    ("syncing the folder", "kill"),
    ("validation", "kill"),
    ("end of epoch", "kill"),
    ("reading a checkpoint", "kill"),
    ("testing", "kill"),
    ("writing results", "kill"),
)
_ONCE = ("reading a checkpoint", "testing", "writing results")
VICTIMS = ("the command", "all its processes", "one of its processes")


@dataclass
class Chain:
    """One run, killed several times and then left alone.

    Attributes:
        case: Key of `CASES`.
        kills: How and when it was killed, in words.
        resume_s: From the start of each resumed command to its first optimizer step.
        is_recovered: Whether the last command ended with 0.
        is_equal: Whether weights, optimizer states and predictions are those of an undisturbed run.
        hangs: Commands that had to be given up.
        error: What a command said that ended otherwise than it should.
    """

    case: str
    kills: list[str] = field(default_factory=list)
    resume_s: list[float] = field(default_factory=list)
    is_recovered: bool = False
    is_equal: bool = False
    hangs: int = 0
    error: str = ""


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="runs at a time")
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    cases = list(CASES)
    if arguments.quick:
        arguments.kills, arguments.jobs, cases = 2, 1, cases[:1]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        root = Path(folder)
        wholes = dict(
            zip(cases, pool.map(lambda case: _undisturbed(case, root), cases), strict=True)
        )
        chains: list[Chain] = []
        while sum(len(chain.kills) for chain in chains) < arguments.kills:
            numbers = range(len(chains), len(chains) + arguments.jobs)
            chains += pool.map(
                lambda n: run_chain(n, cases[n % len(cases)], root, wholes, arguments.seed), numbers
            )
            done = sum(len(chain.kills) for chain in chains)
            print(f"{done} kills, {sum(c.is_equal for c in chains)} of {len(chains)} equal")
    rows = rows_of(chains)
    path = save("soak", rows, arguments, parser, {"chains": [asdict(chain) for chain in chains]})
    print(format_rows(rows))
    return path


def _undisturbed(case: str, root: Path) -> tuple[dict[str, str], float]:
    """Run a case whole; return its fingerprint and how long it took."""
    run = root / f"whole_{list(CASES).index(case)}"
    began = time.monotonic()
    end = Command(*_words(case, run), cwd=root).end(limit_s=_LIMIT_S)
    if end.code:
        raise RuntimeError(f"{case}: {end.last_line}")
    return fingerprint(run), time.monotonic() - began


def run_chain(
    number: int,
    case: str,
    root: Path,
    wholes: Mapping[str, tuple[dict[str, str], float]],
    seed: int = 0,
) -> Chain:
    """Kill a run two to five times, let it end, and compare it.

    Args:
        number: Of the chain; with the seed it decides all that is random.
        case: Key of `CASES`.
        root: Folder for the run.
        wholes: Fingerprints and durations in seconds of undisturbed runs, by case.
        seed: Of the whole program.
    """
    draw = random.Random(f"{seed} {number}")
    whole, duration_s = wholes[case]
    run = root / f"chain_{number}"
    chain = Chain(case)
    try:
        for _ in range(draw.randint(2, 5)):
            how = _kill_once(chain, draw, run, duration_s)
            if how is None:
                break
            chain.kills.append(how)
        end = Command(*_words(case, run), cwd=root).end(limit_s=_LIMIT_S)
        chain.is_recovered = end.code == 0
        chain.error = "" if chain.is_recovered else end.stderr[-2000:]
        chain.is_equal = chain.is_recovered and fingerprint(run) == whole
    except AssertionError as error:  # a command that hangs, or a process that stays behind
        chain.hangs += 1
        chain.error = str(error)[-2000:]
    return chain


def _kill_once(chain: Chain, draw: random.Random, run: Path, duration_s: float) -> str | None:
    """Start or resume, and kill at a random time or a named point; None when it ended before."""
    mark = run.with_suffix(f".mark{len(chain.kills)}")
    is_resumed = (run / "config.yaml").exists()
    faults = [fault("training step", "mark", path=mark)]
    victims, delay_s = draw.choice(VICTIMS), draw.uniform(0.0, duration_s)
    point, do = draw.choice(_AIMS)
    call = 1 if point in _ONCE else draw.randint(1, 12)
    is_aimed = draw.random() < _AIMED_RATIO
    if is_aimed:
        faults.append(fault(point, do, call))
    began = time.time()
    command = Command(*_words(chain.case, run), cwd=run.parent, faults=tuple(faults))
    if not is_aimed:
        _wait(command, delay_s)
        _kill(command, victims, draw)
    end = command.end(limit_s=_LIMIT_S)
    command.wait_for_orphans()
    if is_resumed and mark.exists():
        chain.resume_s.append(mark.stat().st_mtime - began)
    how = f"at '{point}' {call}" if is_aimed else f"{victims} after {delay_s:.1f} s"
    return None if end.code == 0 else f"{how}: exit code {end.code}"


def _words(case: str, run: Path) -> list[str]:
    resume = ["resume=true"] if (run / "config.yaml").exists() else []
    return ["gpuopt.train", *_SMALL, *CASES[case], f"run={run}", *resume]


def _wait(command: Command, delay_s: float) -> None:
    deadline = time.monotonic() + delay_s
    while time.monotonic() < deadline and command.code() is None:
        time.sleep(0.02)


def _kill(command: Command, victims: str, draw: random.Random) -> None:
    family = command.family()
    others = [pid for pid in family if pid != command.pid]
    chosen = {
        "the command": [command.pid],
        "all its processes": family,
        "one of its processes": [draw.choice(others or [command.pid])],
    }[victims]
    for pid in chosen if command.code() is None else ():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def rows_of(chains: Sequence[Chain]) -> list[Row]:
    """Sum up, over all cases and by case."""
    rows = []
    for case in (None, *CASES):
        own = [chain for chain in chains if case in (None, chain.case)]
        if not own:
            continue
        kills, setting = sum(len(chain.kills) for chain in own), case or "all cases"
        equal, recovered = (
            sum(getattr(c, key) for c in own) for key in ("is_equal", "is_recovered")
        )
        rows += [
            Row("kills", setting, kills, "kills"),
            _counted("runs that went on to the end", setting, recovered, len(own)),
            _counted("runs equal to the bit", setting, equal, len(own)),
        ]
        if case is None:
            hangs = sum(chain.hangs for chain in own)
            rows.append(
                Row("hangs", setting, hangs, "commands", goal="= 0", verdict=_verdict(hangs == 0))
            )
        if times := [value for chain in own for value in chain.resume_s]:
            rows.append(Row("resume, median", setting, statistics.median(times), "s"))
    return rows


def _counted(measure: str, setting: str, count: int, of: int) -> Row:
    return Row(
        measure,
        f"{setting}, {of} runs",
        count,
        "runs",
        goal=f"= {of}",
        verdict=_verdict(count == of),
    )


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"
