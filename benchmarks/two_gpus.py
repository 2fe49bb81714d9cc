"""`trainer.devices=2` against one GPU: the same losses, images per second, kill and resume."""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.measure.pairs import paired_ratio, spread, verdict

__all__ = ["SPEED_CASES", "Measured", "SpeedCase", "ended_after_death", "main", "speed_rows"]

_ROOT = Path(__file__).parent.parent
_LIMIT_S = 240.0
_PARTS = ("parity", "death", "speed")
_PARITY_GOAL = 1e-6
_DEATH_GOAL_S = 30.0
_SPEED_GOAL = ">= 1.9"

# A LayerNorm network without dropout, in fp32 with kernels that repeat themselves to the bit.
_EXACT = (
    *("data=digits", "model=timm", "model.name=test_convnext", "model.pretrained=false"),
    *("image_size=32", "precision=fp32", "trainer.deterministic=true", "tta=none", "logger=csv"),
    *("global_batch_size=128", "trainer.log_every_n_steps=1", "num_workers=0"),
)
_SPEED = (
    *("data=documents", "data.validation_ratio=0.05", "data.test_count=17"),
    *("model=timm", "model.pretrained=false", "tta=none", "logger=csv", "precision=bf16"),
    *("data.train_count=4000", "trainer.log_every_n_steps=1"),
)
# What the first steps do once, such as loading kernels, is no matter of the number of GPUs.
_WARMUP_SEGMENTS = 1


@dataclass(frozen=True)
class SpeedCase:
    """A model whose speed is compared.

    Attributes:
        name: For the record.
        words: Its settings; the global batch is the same on one and on two GPUs.
        micro_batch_size: On each GPU; one GPU takes two for each that two GPUs take.
        pairs: How often one and two GPUs take turns.
    """

    name: str
    words: tuple[str, ...]
    micro_batch_size: int
    pairs: int


SPEED_CASES = (
    SpeedCase(
        "convnext_base 384 px, global batch 256, bf16",
        (
            *("model.name=convnext_base.fb_in22k_ft_in1k_384", "image_size=384"),
            *("global_batch_size=256", "trainer.max_steps=14"),
        ),
        micro_batch_size=128,
        pairs=1,
    ),
    SpeedCase(
        "resnet50 224 px, global batch 512, bf16",
        (
            *("model.name=resnet50", "image_size=224", "global_batch_size=512"),
            "trainer.max_steps=20",
        ),
        micro_batch_size=256,
        pairs=1,
    ),
)
_QUICK_CASES = (
    SpeedCase(
        "test_vit 32 px, global batch 32, fp32",
        (
            *("model.name=test_vit", "image_size=32", "global_batch_size=32", "precision=fp32"),
            *("data.train_count=200", "data.drawn_size=64", "trainer.max_epochs=1"),
        ),
        micro_batch_size=16,
        pairs=1,
    ),
)


@dataclass(frozen=True)
class Measured:
    """What one command's run did.

    Attributes:
        samples_per_second: Of every optimizer step after the first three, one number each.
        error: Its last line when it failed.
    """

    samples_per_second: list[float]
    error: str = ""


class _Runner:
    """Starts `gpuopt train` in processes of its own."""

    def __init__(self, folder: Path, extra: Sequence[str]) -> None:
        self._folder = folder
        self._extra = (f"cache_dir={folder / 'cache'}", *extra)
        search = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._environment = {**os.environ, "PYTHONPATH": search, "COLUMNS": "120"}

    def path(self, name: str) -> Path:
        """Return the folder of a run."""
        return self._folder / name

    def start(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Start a run, or go on with it."""
        command = [sys.executable, "-m", "gpuopt.train", *words, *self._extra]
        with (self._folder / f"{name}.err").open("a") as errors:
            return subprocess.Popen(
                [*command, f"run={self.path(name)}"],
                cwd=self._folder,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                env=self._environment,
            )

    def run(self, name: str, *words: str) -> int:
        """Run to the end and return the exit code."""
        process = self.start(name, *words)
        try:
            return process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            return process.wait(60)

    def last_line(self, name: str) -> str:
        """Return what a run said last."""
        lines = (self._folder / f"{name}.err").read_text("utf-8").strip().splitlines()
        return lines[-1].replace(f"{self._folder}/", "")[:300] if lines else ""

    def scalars(self, name: str, key: str) -> list[float]:
        """Read what a run logged."""
        with (self.path(name) / "csv/metrics.csv").open(encoding="utf-8") as file:
            return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks two_gpus", description=__doc__)
    parser.add_argument(
        "--budget-s", type=float, default=540.0, help="start nothing after this (default: 540)"
    )
    parser.add_argument("--part", nargs="+", choices=_PARTS, help="only these (default: all)")
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    wanted = arguments.part or _PARTS
    if torch.cuda.device_count() < 2 and not arguments.quick:
        parser.error("two CUDA devices are needed; --quick tests the program on two processors")
    deadline_s = time.monotonic() + arguments.budget_s
    rows: list[Row] = []
    details: dict[str, Any] = {}
    path: Path = arguments.output
    with tempfile.TemporaryDirectory() as folder:
        runner = _Runner(Path(folder), ("gpu=cpu",) if arguments.quick else ())
        for name, part, epochs in (("parity", _parity, 2), ("death", _death, 8)):
            if name not in wanted:
                continue
            print(f"{name} ...", flush=True)
            found, details[name] = part(runner, 3 if arguments.quick else epochs)
            rows += found
            print(format_rows(found), details[name], flush=True)
            path = save("two_gpus", rows, arguments, parser, details)
        for case in _QUICK_CASES if arguments.quick else SPEED_CASES:
            if "speed" not in wanted:
                break
            measured = _speed(runner, case, deadline_s)
            rows += speed_rows(case, measured)
            details[case.name] = {
                name: [vars(one) for one in several] for name, several in measured.items()
            }
            print(format_rows(speed_rows(case, measured)), details[case.name], flush=True)
            path = save("two_gpus", rows, arguments, parser, details)
    print(format_rows(rows))
    return path


def _parity(runner: _Runner, epochs: int) -> tuple[list[Row], dict[str, Any]]:
    """Compare the losses of every step, and what validation counts."""
    settings = (*_EXACT, "micro_batch_size=32", f"trainer.max_epochs={epochs}")
    codes = {
        "one": runner.run("one", *settings),
        "two": runner.run("two", *settings, "trainer.devices=2"),
    }
    if any(codes.values()):
        return [], {name: runner.last_line(name) for name in codes}
    losses = [runner.scalars(name, "train/loss_step") for name in codes]
    validation = [runner.scalars(name, "val/loss") for name in codes]
    largest = max(abs(a - b) for a, b in zip(*losses, strict=True))
    setting = "test_convnext 32 px, fp32, global batch 128 as 32 x 4 and as 2 x 32 x 2, digits"
    steps = f"{setting}, {len(losses[0])} steps"
    found = [
        Row("largest difference of a step's loss, two / one", steps, largest, "nats",
            goal=f"<= {_PARITY_GOAL}", verdict="met" if largest <= _PARITY_GOAL else "missed"),
        Row("largest difference of the validation loss", setting,
            max(abs(a - b) for a, b in zip(*validation, strict=True)), "nats"),
    ]  # fmt: skip
    return found, {"losses": losses, "validation": validation}


def _death(runner: _Runner, epochs: int) -> tuple[list[Row], dict[str, Any]]:
    """Kill one rank in the middle; the run must end, and go on as if nothing had been."""
    settings = (
        *_EXACT, "micro_batch_size=32", f"trainer.max_epochs={epochs}", "trainer.devices=2",
        "model.drop_rate=0.2", "callbacks.moving_average.enabled=true",
        "callbacks.checkpoint.every_n_steps=5",
    )  # fmt: skip
    whole = runner.run("whole", *settings)
    process = runner.start("killed", *settings)
    ended_s = ended_after_death(process, runner.path("killed"))
    line = runner.last_line("killed")
    if ended_s is None or whole:
        return [], {"whole": runner.last_line("whole"), "killed": line}
    resumed = runner.run("killed", f"resume={runner.path('killed')}")
    is_equal = resumed == 0 and _same_weights(runner.path("whole"), runner.path("killed"))
    setting = "test_convnext 32 px, dropout, averaging, rank 1 killed by SIGKILL"
    found = [
        Row("end after a rank's death", setting, ended_s, "s", goal=f"<= {_DEATH_GOAL_S:.0f}",
            verdict="met" if ended_s <= _DEATH_GOAL_S else "missed"),
        Row("resumed run equal to the bit", setting, float(is_equal), "share", goal=">= 1",
            verdict="met" if is_equal else "missed"),
    ]  # fmt: skip
    return found, {"last line": line, "resumed": runner.last_line("killed") if resumed else ""}


def ended_after_death(process: "subprocess.Popen[str]", folder: Path) -> float | None:
    """Kill the second rank once the run has saved.

    Returns:
        Seconds from its death to the command's end; None when the run ended before.
    """
    saved = folder / "checkpoints/last.ckpt"
    deadline_s = time.monotonic() + _LIMIT_S
    while not saved.exists() and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.02)
    victims = [pid for pid, rank in _ranks(process.pid).items() if rank == 1]
    if process.poll() is not None or not victims:
        process.kill()
        return None
    os.kill(victims[0], signal.SIGKILL)
    began_s = time.monotonic()
    process.wait(_LIMIT_S)
    return time.monotonic() - began_s


def _ranks(parent: int) -> dict[int, int]:
    """Find the ranks that a command has started, by process number."""
    found: dict[int, int] = {}
    for name in Path("/proc").glob("[0-9]*"):
        try:
            told = int((name / "stat").read_text().rpartition(")")[2].split()[1])
            words = (name / "environ").read_text().split("\0")
        except (OSError, ValueError):
            continue  # it has ended, or is not ours to read
        if told == parent:
            found |= {int(name.name): int(w[5:]) for w in words if w.startswith("RANK=")}
    return found


def _same_weights(left: Path, right: Path) -> bool:
    from gpuopt.storage.checkpoint import read_checkpoint

    states = [
        read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"] for folder in (left, right)
    ]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _speed(runner: _Runner, case: SpeedCase, deadline_s: float) -> dict[str, list[Measured]]:
    """Let one and two GPUs take turns, in the order one, two, two, one, ..."""
    measured: dict[str, list[Measured]] = {"one": [], "two": []}
    slug = case.name.split()[0]
    for number in range(case.pairs):
        if time.monotonic() > deadline_s:
            break
        for name in ("one", "two") if number % 2 == 0 else ("two", "one"):
            run = f"{slug}_{name}_{number}"
            words = [*_SPEED, *case.words, f"micro_batch_size={case.micro_batch_size}"]
            words += ["trainer.devices=2"] if name == "two" else []
            code = runner.run(run, *words)
            if code:
                measured[name].append(Measured([], runner.last_line(run)))
            else:
                speeds = runner.scalars(run, "throughput/samples_per_second")
                measured[name].append(Measured(speeds[_WARMUP_SEGMENTS:]))
            print(run, measured[name][-1], flush=True)
    return measured


def speed_rows(case: SpeedCase, measured: Mapping[str, Sequence[Measured]]) -> list[Row]:
    """Sum up what one and two GPUs did in turns.

    Args:
        case: The model.
        measured: Runs with one and with two GPUs. The steps of two runs make the pairs.
    """
    pairs = [
        pair
        for one, two in zip(measured["one"], measured["two"], strict=False)
        for pair in zip(one.samples_per_second, two.samples_per_second, strict=False)
    ]
    if len(pairs) < 2:
        return []
    ones, twos = zip(*pairs, strict=True)
    rows = []
    for name, values in (("one GPU", ones), ("two GPUs", twos)):
        mean = spread(values)
        rows.append(
            Row(f"training, {name}", case.name, mean.value, "images/s", mean.low, mean.high)
        )
    gain = paired_ratio(twos, ones)
    judged = verdict(gain.low, gain.high, _SPEED_GOAL, gain.pairs)
    rows.append(
        Row("images/s, two GPUs / one", case.name, gain.ratio, "ratio", gain.low, gain.high,
            _SPEED_GOAL, judged)
    )  # fmt: skip
    return rows
