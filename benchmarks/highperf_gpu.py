"""Training throughput and memory of `mode=highperf` on a GPU, and steps against timm's."""

import argparse
import contextlib
import gc
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Row, add_common_arguments, format_rows, hardware, save
from benchmarks.step_setting import (
    MemoryImages,
    StepSetting,
    affordable_workers,
    draw_bank,
    make_classifier,
)
from benchmarks.step_time import compare_steps, step_rows
from benchmarks.trainer_segments import GPUOPT, Design, time_fit
from gpuopt.callbacks import MovingAverage
from gpuopt.hardware import load_catalogue
from gpuopt.measure.pairs import spread
from gpuopt.memory import MemorySetup, predict_memory
from gpuopt.session.plan import Plan, make_plan

__all__ = ["OP_BY_OP_LIMITS", "Job", "Outcome", "main", "run_jobs"]

OP_BY_OP_LIMITS = {
    ("convnext_base", 384): (1409, 2377),
    ("efficientnet_b3", 288): (4714, 19283),
    ("resnet50", 224): (10262, 25942),
}
"""Training images/s of an H200 when every kernel runs at 790 TFLOP/s in bf16 and 4.3 TB/s, one
after another: with every operation a kernel of its own, and with all but convolutions and matrix
products fused away. Computed from the operations of timm's models."""

_LIMITS_CARD = "H200"
_GLOBAL_BATCH = 256
_FALLBACK_MICRO_BATCH = 128
_MICRO_BATCHES = (64, 128)
_THROUGHPUT = Design(rounds=5, steps=6, warmup_steps=1, prelude_steps=3)
_GIB = 2**30

StepTimes = dict[str, list[float]]


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        name: For the record.
        expected_s: What it takes on an H200, in seconds.
        run: Returns its figures, and the mean step of each segment in seconds by contestant.
    """

    name: str
    expected_s: float
    run: Callable[[], tuple[list[Row], StepTimes]]


@dataclass(frozen=True)
class Outcome:
    """What became of the measurements.

    Attributes:
        rows: All figures.
        step_s: Mean step of each segment in seconds, by measurement and contestant.
        errors: The last line of each failure, by measurement.
        skipped: Measurements for which no time was left.
    """

    rows: list[Row]
    step_s: dict[str, StepTimes]
    errors: dict[str, str]
    skipped: list[str]


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    began_s = time.monotonic()
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("no CUDA device was found; --quick tests the program on a CPU")
    if arguments.quick:
        arguments.compile_backend = "eager"
    path: Path = arguments.output

    def keep(outcome: Outcome) -> None:
        nonlocal path  # saved after every measurement: what is done outlives a time limit
        details = {
            "errors": outcome.errors,
            "skipped": outcome.skipped,
            "segment_step_s": outcome.step_s,
        }
        path = save("highperf_gpu", outcome.rows, arguments, parser, details)

    outcome = Outcome([], {}, {}, [])
    jobs = _jobs(arguments, outcome)
    if arguments.only:
        jobs = [job for job in jobs if any(part in job.name for part in arguments.only)]
        if not jobs:
            parser.error(f"no measurement's name contains {' or '.join(arguments.only)}")
    run_jobs(jobs, outcome, began_s + arguments.budget_s, keep)
    print(format_rows(outcome.rows))
    for name, reason in outcome.errors.items():
        print(f"failed: {name}: {reason}")
    for name in outcome.skipped:
        print(f"no time left for: {name}")
    return path


def run_jobs(
    jobs: Sequence[Job],
    outcome: Outcome,
    deadline_s: float,
    keep: Callable[[Outcome], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Carry out measurements until the time is up; one that fails does not stop the others.

    Args:
        jobs: The most important first.
        outcome: Where everything is noted.
        deadline_s: Measurements that would end after this time are skipped.
        keep: Called with everything so far after each measurement.
        clock: What the deadline is read on, in seconds.
    """
    for job in jobs:
        if clock() + job.expected_s > deadline_s:
            outcome.skipped.append(job.name)
        else:
            print(f"{job.name} ...", flush=True)
            try:
                rows, outcome.step_s[job.name] = job.run()
                outcome.rows.extend(rows)
            except Exception as error:  # out of memory, a compiler that fails, and so on
                _note(outcome, job.name, error)
            _clean_up()
        keep(outcome)


def _note(outcome: Outcome, name: str, error: Exception) -> None:
    traceback.print_exception(error, limit=-4)
    outcome.errors[name] = f"{type(error).__name__}: {error}"[:500]


def _jobs(arguments: argparse.Namespace, outcome: Outcome) -> list[Job]:
    quick, device = arguments.quick, arguments.device
    backend = arguments.compile_backend
    name, size = ("test_convnext", 32) if quick else ("convnext_base.fb_in22k_ft_in1k_384", 384)
    b3, r50 = ("test_efficientnet", "test_resnet") if quick else ("efficientnet_b3", "resnet50")
    batch = 8 if quick else _GLOBAL_BATCH
    base = StepSetting(name, size, batch, batch, "bf16", device)
    chosen = base if quick else _chosen_by_gpuopt(base, outcome)
    others = (4,) if quick else _MICRO_BATCHES
    smaller = [
        replace(chosen, micro_batch_size=micro)
        for micro in others
        if micro != chosen.micro_batch_size
    ]
    compare = _comparison(Design(2, 1, 0, 1) if quick else Design(6, 6, 1, 3))
    small = _comparison(Design(2, 1, 0, 1) if quick else Design(8, 20, 3, 5))
    speed = Design(2, 1, 0, 1) if quick else _THROUGHPUT
    jobs = [
        _throughput_job(chosen, speed, 40),
        Job(f"steps of {chosen}", 75, lambda: compare(chosen)),
        _throughput_job(replace(chosen, compile_backend=backend), speed, 100),
    ]
    for model, pixels, expected_s in ((b3, 288, 65), (r50, 224, 50)):
        setting = replace(base, model=model, image_size=32 if quick else pixels)
        jobs.append(Job(f"steps of {setting}", expected_s, partial(small, setting)))
    jobs += [_throughput_job(setting, speed, 25) for setting in smaller]
    jobs += [
        _throughput_job(replace(setting, compile_backend=backend), speed, 80)
        for setting in reversed(smaller)
    ]
    return jobs


def _chosen_by_gpuopt(setting: StepSetting, outcome: Outcome) -> StepSetting:
    """Take the micro-batch that `gpu=auto` picks, lowered to a divisor of the global batch."""
    try:
        plan = _plan(setting)
    except Exception as error:  # the rest is worth measuring all the same
        _note(outcome, "micro-batch by gpu=auto", error)
        return replace(setting, micro_batch_size=_FALLBACK_MICRO_BATCH)
    for choice in plan.choices:
        print(choice)
    micro = plan.micro_batch_size
    while setting.global_batch_size % micro:
        micro -= 1
    return replace(setting, micro_batch_size=micro, precision=plan.precision)


def _plan(setting: StepSetting) -> Plan:
    from gpuopt.schema import CONF_DIR  # brings Hydra along

    catalogue = load_catalogue(CONF_DIR / "gpu")
    return make_plan(
        preset=catalogue["auto"],
        catalogue=catalogue,
        model={"name": setting.model, "checkpointing": "none"},
        precision="auto",
        image_size=setting.image_size,
        micro_batch_size="auto",
        global_batch_size=setting.global_batch_size,
        devices=1,
    )


def _comparison(design: Design) -> Callable[[StepSetting], tuple[list[Row], StepTimes]]:
    def compare(setting: StepSetting) -> tuple[list[Row], StepTimes]:
        step_s = compare_steps(_with_workers(setting), design)
        return step_rows(step_s, setting), step_s

    return compare


def _throughput_job(setting: StepSetting, design: Design, expected_s: float) -> Job:
    return Job(
        f"throughput of {setting}", expected_s, lambda: _throughput(_with_workers(setting), design)
    )


def _throughput(setting: StepSetting, design: Design) -> tuple[list[Row], StepTimes]:
    """Train as `mode=highperf` does, averaged weights included."""
    torch.manual_seed(0)
    is_cuda = setting.device == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    model = make_classifier(setting, design.trainer_steps)
    data = MemoryImages(draw_bank(setting.image_size), setting, design.trainer_steps)
    with tempfile.TemporaryDirectory() as folder:
        step_s = time_fit(setting, design, model, data, Path(folder), callbacks=[MovingAverage()])
    step = spread(step_s[GPUOPT])
    speed = setting.global_batch_size / step.value
    row = Row(
        "training",
        str(setting),
        speed,
        "images/s",
        setting.global_batch_size / step.high,
        setting.global_batch_size / step.low,
    )
    memory = _memory(setting) if is_cuda else []
    return [row, *_share(setting, row), *memory], step_s


def _share(setting: StepSetting, speed: Row) -> list[Row]:
    """Compare a speed with the limit of the card that the limits were computed for."""
    limits = OP_BY_OP_LIMITS.get((setting.model.partition(".")[0], setting.image_size))
    if limits is None or _LIMITS_CARD not in str(hardware()["gpu"]):
        return []
    eager, fused = limits
    limit, kind = (fused, "fused") if setting.compile_backend else (eager, "op-by-op")
    assert speed.low is not None  # both bounds come from the same segments
    assert speed.high is not None
    name = f"training, share of the {kind} limit of {limit} images/s"
    shares = (speed.value / limit, speed.low / limit, speed.high / limit)
    return [Row(name, speed.setting, shares[0], "ratio", shares[1], shares[2])]


def _memory(setting: StepSetting) -> list[Row]:
    setup = MemorySetup(
        setting.model,
        setting.image_size,
        setting.precision,
        num_classes=setting.num_classes,
        moving_average=True,
    )
    predicted = predict_memory(setup).allocated_bytes(setting.micro_batch_size)
    found: dict[str, Any] = {
        "peak memory, allocated": torch.cuda.max_memory_allocated(),
        "peak memory, reserved": torch.cuda.max_memory_reserved(),
        "peak memory, predicted (without the CUDA context)": predicted,
    }
    return [Row(name, str(setting), size / _GIB, "GiB") for name, size in found.items()]


def _with_workers(setting: StepSetting) -> StepSetting:
    workers = affordable_workers(setting.device, setting.image_size, setting.micro_batch_size)
    return replace(setting, workers=workers)


def _clean_up() -> None:
    """Give memory back and forget compiled shapes, so that measurements do not meet."""
    with contextlib.suppress(RuntimeError):  # after a fault of the device nothing works any more
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks highperf_gpu", description=__doc__)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--compile-backend", default="inductor")
    parser.add_argument(
        "--budget-s", type=float, default=450.0, help="skip what would end later (default: 450)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        help="measure only what has PART in its name, such as resnet50",
    )
    add_common_arguments(parser)
    return parser
