"""Every GPU preset with its memory emulated: do its own settings fit, and how good is the guess.

For each preset two of the modes are planned as `gpuopt train` plans them for that card. The
planned micro-batch then trains, accumulating, with the allocator capped to the card's memory, and
the finder measures what would have fitted with the headroom of a measurement. Presets that differ
in their memory by less than one part in a hundred share the measurement of the smallest. The
arithmetic is that of the GPU the program runs on; only the memory is emulated.
"""

import argparse
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import lightning.pytorch as L
import torch

from benchmarks.memory_cells import (
    CONTEXT_MIB,
    Cell,
    build,
    capped,
    images_of,
    quiet,
    setup_of,
    train_cell,
    trainer_of,
)
from benchmarks.memory_jobs import SharedMemory, TaskFailedError, run_task
from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.callbacks import BatchSizeFinder, MovingAverage, OomRecovery
from gpuopt.hardware import Gpu, available_cpus, load_catalogue, resolve_precision
from gpuopt.memory import choose_micro_batch, predict_memory
from gpuopt.memory.device_errors import is_out_of_memory
from gpuopt.schema import CONF_DIR

__all__ = ["Fitted", "PresetTask", "main", "preset_rows", "preset_tasks"]

_GLOBAL_BATCH_SIZE = 256
_GIB = 1024
_MIB = 2**20
_STEPS, _ACCUMULATED = 3, 2
_ALIKE_RATIO = 1.01
_WITHOUT_TRAINING = ("auto", "cpu", "v100")  # PyTorch has no kernels for a V100 any more
# Network and image size of the modes; None takes the preset's own size.
_MODES = {
    "highperf": ("convnext_base.fb_in22k_ft_in1k_384", None),
    "basic": ("efficientnet_b3", 288),
}
_AVERAGED = ("highperf",)


@dataclass(frozen=True)
class PresetTask:
    """A mode on all the cards that differ in nothing but their name.

    Attributes:
        presets: Their names.
        mode: Of `gpuopt train`.
        model: timm model name.
        image_size: Side in pixels.
        precision: As the preset recommends.
        memory_mib: Of the card.
    """

    presets: tuple[str, ...]
    mode: str
    model: str
    image_size: int
    precision: str
    memory_mib: int

    def __str__(self) -> str:
        """Word it for a table."""
        cards = ", ".join(self.presets)
        return (
            f"{cards}: {self.memory_mib / _GIB:.1f} GiB, {self.mode}, {self.image_size} px, "
            f"{self.precision}"
        )


@dataclass(frozen=True)
class Fitted:
    """What came of one task.

    Attributes:
        task: In words.
        predicted: Most samples that were predicted to fit.
        measured: Most that the finder found; None where it was not asked.
        micro_batch_size: What `gpuopt train` would take for its global batch.
        fits: Whether that trained some steps and validated.
        peak_ratio: Peak of its tensors / what the emulated card has for them.
        headroom_ratios: Share kept free by the plan, and by the finder.
    """

    task: str
    predicted: int
    measured: int | None
    micro_batch_size: int
    fits: bool
    peak_ratio: float
    headroom_ratios: tuple[float, float] = (0.0, 0.0)


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks presets", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="tasks at once on all GPUs")
    parser.add_argument(
        "--most-gib", type=float, help="leave out cards with more memory (default: the GPU's own)"
    )
    parser.add_argument("--least-gib", type=float, default=0.0, help="leave out those with less")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available() and not arguments.quick:
        parser.error("no CUDA device was found; --quick tests the program on a CPU")
    if arguments.task:
        content = json.loads(arguments.task)["tasks"]
        tasks = [PresetTask(**{**one, "presets": tuple(one["presets"])}) for one in content]
        written = {"fitted": [asdict(_carry_out(task)) for task in tasks]}
        arguments.output.write_text(json.dumps(written), "utf-8")
        return Path(arguments.output)
    tasks, too_large = _tasks_here(arguments.most_gib, quick=arguments.quick)
    tasks = [task for task in tasks if task.memory_mib >= arguments.least_gib * _GIB]
    path = arguments.output

    def keep(found: Sequence[Fitted], errors: Mapping[str, str]) -> None:
        nonlocal path
        details = {
            "fitted": [asdict(one) for one in found],
            "errors": errors,
            "left_out": too_large,
        }
        path = save("presets", preset_rows(found), arguments, parser, details)

    found, errors = _run_all(tasks, arguments.jobs, keep)
    print(format_rows(preset_rows(found)))
    for name, reason in errors.items():
        print(f"failed: {name}: {reason}")
    return Path(path)


def preset_tasks(catalogue: Mapping[str, Gpu]) -> list[PresetTask]:
    """List the measurements of all presets, cards with the most memory first.

    Args:
        catalogue: Presets by name.
    """
    tasks: list[PresetTask] = []
    cards = {name: gpu for name, gpu in catalogue.items() if name not in _WITHOUT_TRAINING}
    for name, gpu in sorted(cards.items(), key=lambda card: card[1].memory_mib or 0):
        for mode, (model, image_size) in _MODES.items():
            task = PresetTask(
                (name,),
                mode,
                model,
                image_size or gpu.image_size or 0,
                str(resolve_precision("auto", gpu, True).value),
                gpu.memory_mib or 0,
            )
            other = next((one for one in tasks if _are_alike(one, task)), None)
            if other is None:
                tasks.append(task)
            else:
                place = tasks.index(other)
                tasks[place] = replace(other, presets=(*other.presets, name))
    return sorted(tasks, key=lambda task: -task.memory_mib)


def _are_alike(smaller: PresetTask, larger: PresetTask) -> bool:
    of_smaller = replace(larger, presets=smaller.presets, memory_mib=smaller.memory_mib)
    return of_smaller == smaller and larger.memory_mib <= _ALIKE_RATIO * smaller.memory_mib


def _tasks_here(most_gib: float | None, *, quick: bool) -> tuple[list[PresetTask], list[str]]:
    """Return the tasks for this machine, and the presets that have more memory than that."""
    if quick:
        return [PresetTask(("quick",), "quick", "test_vit", 32, "fp32", 6144)], []
    total_mib = torch.cuda.get_device_properties(0).total_memory // _MIB
    if most_gib is not None:
        total_mib = min(total_mib, int(most_gib * _GIB))
    tasks = preset_tasks(load_catalogue(CONF_DIR / "gpu"))
    here = [task for task in tasks if task.memory_mib <= total_mib]
    absent = {name for task in tasks if task.memory_mib > total_mib for name in task.presets}
    return here, sorted(absent)


def _run_all(
    tasks: Sequence[PresetTask],
    jobs: int,
    keep: Callable[[Sequence[Fitted], Mapping[str, str]], None],
) -> tuple[list[Fitted], dict[str, str]]:
    """Run the modes of a card one after another in a process, several cards at once."""
    found: list[Fitted] = []
    errors: dict[str, str] = {}
    shared = SharedMemory.of_devices()
    threads = max(1, available_cpus() // jobs)
    order = {str(task): number for number, task in enumerate(tasks)}
    kept = threading.Lock()
    by_card: dict[tuple[str, ...], list[PresetTask]] = {}
    for task in tasks:
        by_card.setdefault(task.presets, []).append(task)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:

        def run(number: int, card: Sequence[PresetTask]) -> None:
            target = Path(folder) / f"{number}.json"
            words = {"tasks": [asdict(task) for task in card]}
            try:
                with shared.taken(card[0].memory_mib / _GIB) as device:
                    content = run_task("presets", words, target, device=device, threads=threads)
            except TaskFailedError as error:
                print(f"{card[0]}: {error}", flush=True)
                with kept:
                    errors[", ".join(card[0].presets)] = str(error)
                    keep(found, errors)
                return
            fitted = [Fitted(**one) for one in content["fitted"]]
            print(*fitted, sep="\n", flush=True)
            with kept:
                found.extend(fitted)
                found.sort(key=lambda one: order[one.task])
                keep(found, errors)

        list(pool.map(run, range(len(by_card)), by_card.values()))
    return found, errors


def _carry_out(task: PresetTask) -> Fitted:
    """Plan, train and measure in this process."""
    is_cuda = torch.cuda.is_available()
    cell = Cell(
        task.model, task.image_size, precision=task.precision, device="cuda" if is_cuda else "cpu"
    )
    gpu = Gpu(name=task.presets[0], memory_mib=task.memory_mib)
    is_averaged = task.mode in _AVERAGED
    estimate = predict_memory(replace(setup_of(cell), moving_average=is_averaged, accumulates=True))
    micro = int(choose_micro_batch(gpu, estimate, _GLOBAL_BATCH_SIZE).value)
    averages = [MovingAverage()] if is_averaged else []
    with capped(task.memory_mib):
        peak_bytes = _peak_bytes(cell, micro, averages)
        measured = _measured(cell, gpu.headroom("measured"), averages) if is_cuda else None
    return Fitted(
        str(task),
        estimate.largest_batch(gpu.budget_bytes()),
        measured,
        micro,
        peak_bytes is not None,
        (peak_bytes or 0) / ((task.memory_mib - CONTEXT_MIB) * _MIB),
        (gpu.headroom("predicted"), gpu.headroom("measured")),
    )


def _peak_bytes(cell: Cell, samples: int, callbacks: Sequence[L.Callback]) -> int | None:
    """Accumulate some steps with recovery on, and validate; None when memory ran out."""
    recovery = OomRecovery()
    try:
        peak = train_cell(
            cell,
            samples,
            _STEPS,
            callbacks=[recovery, *callbacks],
            accumulate_grad_batches=_ACCUMULATED,
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    return None if recovery.events else peak.allocated_bytes


def _measured(cell: Cell, headroom_ratio: float, callbacks: Sequence[L.Callback]) -> int:
    finder = BatchSizeFinder(
        find_only=True,
        set_batch_size=lambda size: None,
        headroom_ratio=headroom_ratio,
        prior=predict_memory(setup_of(cell)),
    )
    with quiet():
        trainer = trainer_of(cell, [*callbacks, finder])
        trainer.fit(build(cell, 10_000), datamodule=images_of(cell, 8, 10))
    assert finder.result is not None  # there is a CUDA device
    return finder.result.largest


def preset_rows(found: Sequence[Fitted]) -> list[Row]:
    """Sum up: what fits, and prediction and measurement side by side.

    Args:
        found: What came of each task.
    """
    if not found:
        return []
    share = sum(one.fits for one in found) / len(found)
    rows = [
        Row("own settings train without running out", f"{len(found)} settings", share, "share",
            goal=">= 1", verdict="met" if share == 1 else "missed")
    ]  # fmt: skip
    for one in found:
        rows += [
            Row("micro-batch of gpuopt train", one.task, one.micro_batch_size, "samples"),
            Row("largest micro-batch, predicted", one.task, one.predicted, "samples"),
        ]
        if one.measured is not None:
            rows.append(Row("largest micro-batch, measured", one.task, one.measured, "samples"))
    return rows
