"""The seed guide's job, 3,140 JPEGs x 5 views x 5 folds to a CSV: the whole command, and its parts.

`eager`: wall time of `gpuopt predict` in a new process, and what the device alone would take.
`cold`: the same with a faster engine at its first start, which makes and proves it.
`warm`: the same when the engine is there, and what the device alone would take.
`tta15`: fifteen views with the memory of a small card, against five and against one.
`peers`: against ttach and against one pass per view with a loader of its own.

Each command decodes the JPEGs; only an engine and what is known of the model's memory are kept from
one to the next.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.device_rate import DeviceRate, device_rate_in_new_process
from benchmarks.job import JPEG_COUNT, Job, used_engines
from benchmarks.job_peers import measure_peers
from benchmarks.job_views import measure_views
from benchmarks.record import Row, add_common_arguments, format_rows, save
from benchmarks.watched_prediction import WatchedPrediction, watch_prediction
from gpuopt.engine.backends import ENGINE_NAMES

__all__ = ["PARTS", "job_rows", "main"]

_GOAL_S = 40.0
_GOAL_SHARE = 0.85
_VIEWS = 5  # of tta=essential
_BUILT = " built in "  # as the cache of engines says
_STAGES = {
    "start": "start_s",
    "decode": "images_s",
    "models, engines and the first batch": "models_s",
    "all other batches": "batches_s",
    "the CSV and the end": "write_s",
}

Measured = tuple[list[Row], dict[str, Any]]


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.model, arguments.image_size, arguments.folds = "test_vit", 32, 2
        arguments.images, arguments.device_s, arguments.engines = 12, 0.1, ["onnx"]
        arguments.view_images, arguments.peer_images, arguments.rounds = 8, 8, 2
        arguments.peer_batch_size = 4
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    job = Job.prepare(arguments)
    rows: list[Row] = []
    details: dict[str, Any] = {}
    path = arguments.output
    for part in arguments.parts:
        print(f"{part}: {job.files(arguments.images)}, {job.device}", flush=True)
        try:
            if part == "warm" and "cold" in details.get("errors", {}):
                raise RuntimeError("no first start, no second one")  # it would compile for minutes
            found, details[part] = PARTS[part](job, arguments)
        except Exception as error:  # costs only itself
            details.setdefault("errors", {})[part] = f"{type(error).__name__}: {error}"
            print(f"failed: {details['errors'][part]}", flush=True)
            continue
        print(format_rows(found), flush=True)
        rows += found
        path = save("seed_job", rows, arguments, parser, details)
    if "errors" in details:
        raise RuntimeError(f"these parts failed: {details['errors']}")
    return Path(path)


def _eager(job: Job, arguments: argparse.Namespace) -> Measured:
    words = job.words(arguments.images, "tta=essential", "engine=eager")
    rate = device_rate_in_new_process(words, arguments.device_s, job.environment)
    watched = _start(job, arguments.images, "eager", "start")
    rows = job_rows("engine eager", watched, rate, job, arguments.images)
    return rows, {"command": watched.as_dict(), "device": rate.as_dict()}


def _first_start(job: Job, arguments: argparse.Namespace) -> Measured:
    rows: list[Row] = []
    details: dict[str, Any] = {}
    job.forget_engines()
    for engine in arguments.engines:
        watched = _start(job, arguments.images, engine, "first start")
        name = _engine_in_words(engine, watched.lines)
        rows += job_rows(f"{name}, first start", watched, None, job, arguments.images)
        details[engine] = watched.as_dict()
    return rows, details


def _second_start(job: Job, arguments: argparse.Namespace) -> Measured:
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for engine in arguments.engines:
        watched = _start(job, arguments.images, engine, "second start")
        built = [line for line in watched.lines if line.startswith("engine=") and _BUILT in line]
        if built:
            raise RuntimeError(f"no second start, as an engine was made: {built[0]}")
        words = job.words(arguments.images, "tta=essential", f"engine={engine}")
        rate = device_rate_in_new_process(words, arguments.device_s, job.environment)
        name = f"{_engine_in_words(engine, watched.lines)}, second start"
        rows += job_rows(name, watched, rate, job, arguments.images, is_warm=True)
        details[engine] = {"command": watched.as_dict(), "device": rate.as_dict()}
    return rows, details


def _start(job: Job, images: int, engine: str, name: str) -> WatchedPrediction:
    job.forget_images()
    output = job.new_output(f"{engine}_{name.replace(' ', '_')}")
    words = job.words(images, "tta=essential", f"engine={engine}")
    watched = watch_prediction(words, output, job.environment)
    print(f"{engine}, {name}: {watched}", flush=True)
    return watched


def _engine_in_words(engine: str, lines: Sequence[str]) -> str:
    """Name an engine, and what was taken instead of it where its proof failed."""
    used = used_engines(lines)
    if used == [engine]:
        return f"engine {engine}"
    return f"engine {engine}, in whose place {' and '.join(used) or 'the model'} predicted"


def job_rows(
    name: str,
    watched: WatchedPrediction,
    rate: DeviceRate | None,
    job: Job,
    images: int,
    *,
    is_warm: bool = False,
) -> list[Row]:
    """Turn a command into figures.

    Args:
        name: Which engine, and which start of it.
        watched: The command.
        rate: Of the device alone; None where it was not measured.
        job: What was predicted.
        images: How many files.
        is_warm: Whether the goals are for it.
    """
    setting = f"{job.files(images)}, {_VIEWS} views, {name}, {job.device}"
    is_whole = is_warm and job.device == "cuda" and images == JPEG_COUNT
    rows = [_judged("whole command", setting, watched.wall_s, "s", "<=", _GOAL_S, is_whole)]
    rows += [
        Row(f"of it: {words}", setting, getattr(watched, field), "s")
        for words, field in _STAGES.items()
    ]
    if rate is None:
        return rows
    alone = rate.images_per_second
    share = images / watched.wall_s / alone
    rows += [
        Row("the device alone", setting, images / alone, "s"),
        _judged(
            "rate of the whole command / of the device alone",
            setting, share, "ratio", ">=", _GOAL_SHARE, is_whole,
        ),
    ]  # fmt: skip
    between = watched.images_per_second(images)
    if between is not None:
        words = "rate between first and last batch / of the device alone"
        rows.append(Row(words, setting, between / alone, "ratio"))
    return rows


def _judged(
    measure: str, setting: str, value: float, unit: str, sign: str, limit: float, has_goal: bool
) -> Row:
    """Compare a figure with its goal, where it has one."""
    if not has_goal:
        return Row(measure, setting, value, unit)
    is_met = value <= limit if sign == "<=" else value >= limit
    verdict = "met" if is_met else "missed"
    return Row(measure, setting, value, unit, goal=f"{sign} {limit:g}", verdict=verdict)


PARTS: dict[str, Callable[[Job, argparse.Namespace], Measured]] = {
    "eager": _eager,
    "cold": _first_start,
    "warm": _second_start,
    "tta15": measure_views,
    "peers": measure_peers,
}
"""What can be measured, by name; each is saved when it is done."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks seed_job",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="(default: all)"
    )
    parser.add_argument(
        "--images", type=int, default=JPEG_COUNT, help="files (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default="convnext_base", help="timm model (default: %(default)s)"
    )
    parser.add_argument("--image-size", type=int, default=384, help="pixels (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="models (default: %(default)s)")
    parser.add_argument(
        "--engines",
        nargs="+",
        default=["aot_inductor"],
        choices=[name for name in ENGINE_NAMES if name != "eager"],
        help="of cold and warm (default: %(default)s)",
    )
    parser.add_argument(
        "--view-images", type=int, default=640, help="files of tta15 (default: %(default)s)"
    )
    parser.add_argument(
        "--peer-images", type=int, default=512, help="files of peers (default: %(default)s)"
    )
    parser.add_argument(
        "--peer-engines",
        nargs="+",
        default=["eager"],
        choices=ENGINE_NAMES,
        help="with which gpuopt meets the peers; others than eager are built where cold "
        "has not left them (default: %(default)s)",
    )
    parser.add_argument(
        "--peer-batch-size",
        type=int,
        default=32,
        help="of ttach and of one pass per view; their loader processes each make whole batches, "
        "so there should be as many batches as processes (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="of the peers; a verdict needs 5 (default: 5)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--device-s", type=float, default=8.0, help="for the device alone (default: %(default)s)"
    )
    add_common_arguments(parser)
    return parser
