"""Tune a training: loader, compilation, or all that decides its speed; measured, and said why."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gpuopt.answers import print_ending, print_json, table_console
from gpuopt.configuration import KEYS
from gpuopt.configuration.tuning_words import TUNE_KEYS
from gpuopt.entry import checked, folder_words, run_command, typed_folder, typed_keys
from gpuopt.errors import InputError
from gpuopt.finding.experiment_file import ExperimentFile
from gpuopt.finding.found_settings import FoundSettings, refuse_deletions
from gpuopt.finding.probing_process import Measured, measure_in_process
from gpuopt.finding.request import FindRequest
from gpuopt.hardware import DriverDevice, driver_devices
from gpuopt.schema import CONF_DIR, USER_CONF_MARKER, TuneConfig, to_tune_config
from gpuopt.tune_answer import tune
from gpuopt.tuning.answer import TuneAnswer
from gpuopt.tuning.bench_process import BenchProcess

__all__ = ["main"]

_SCHEMA = 1
_MOST_FILES = 10_000


def main() -> None:
    """Run `gpuopt tune`."""
    run_command("tune", _tune, leaves_files=True)


def _tune(composed: DictConfig) -> None:
    settings = checked(composed)
    config = to_tune_config(settings)
    experiment = _place_experiment(config)

    def measure(device: DriverDevice, request: FindRequest, reason: str) -> Measured:
        order = {
            "settings": {k: v for k, v in settings.items() if k not in TUNE_KEYS},
            "device": device.index,
            "checkpointing": request.checkpointing,
            "offload": request.offloads,
            "image_size": request.image_size,
            "reason": reason,
        }
        return measure_in_process(order)

    def open_bench(values: Mapping[str, Any]) -> BenchProcess:
        return BenchProcess(values, config.probe_s)

    with _progress() as tell:
        answer = tune(
            config,
            settings,
            typed_keys(HydraConfig.get()),
            driver_devices(),
            measure=measure,
            open_bench=open_bench,
            tell=tell,
        )
    use = FoundSettings.of(
        HydraConfig.get().overrides.task,
        settings,
        groups=[path.name for path in CONF_DIR.iterdir() if path.is_dir()],
        keys=KEYS["train"],
        found=answer.settings,
    )
    if not answer.settings:
        experiment = None  # what was typed is to be kept
    written = [] if experiment is None else [_write(experiment, use, answer)]
    _PRINT[config.format](answer, _command(use, experiment), written)


def _place_experiment(config: TuneConfig) -> ExperimentFile | None:
    name = config.save_config
    if name is None or (name == "auto" and config.target != "all"):
        return None
    refuse_deletions(HydraConfig.get().overrides.task, name)
    if name != "auto":
        return _place(name)
    for number in range(1, _MOST_FILES):
        with contextlib.suppress(_ExistsError):
            return _place_new(f"tuned_{number}")
    raise InputError("save_config=auto: there are too many tuned experiments: give a name")


class _ExistsError(Exception):
    """The experiment is there already."""


def _place_new(name: str) -> ExperimentFile:
    folder = typed_folder() or Path("conf")
    if any((place / "experiment" / f"{name}.yaml").exists() for place in (folder, CONF_DIR)):
        raise _ExistsError
    return _place(name)


def _place(name: str) -> ExperimentFile:
    return ExperimentFile.place(
        name, shipped=CONF_DIR, marker=USER_CONF_MARKER, given=typed_folder()
    )


def _write(experiment: ExperimentFile, use: FoundSettings, answer: TuneAnswer) -> Path:
    found = dict(use.found)
    groups = dict(use.groups)
    if "precision" in found:
        groups["precision"] = found.pop("precision")
    comment = f"By gpuopt tune on {date.today().isoformat()} for {answer.goal} on {answer.device}."
    experiment.write(groups, {**use.values, **found}, [comment, *map(str, answer.choices)])
    return experiment.path


def _command(use: FoundSettings, experiment: ExperimentFile | None) -> str:
    """Word the one command that trains with what was found."""
    if experiment is not None:
        use = FoundSettings({}, {}, {}, {"experiment": experiment.name})
    return use.command("train", options=folder_words())


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Tell a person what is being measured."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda words: progress.update(task, description=words)


def _print_table(answer: TuneAnswer, command: str, written: Sequence[Path]) -> None:
    # Only now: bad input and JSON need nothing that draws tables.
    from gpuopt.tuning.table import tune_table

    console = table_console()
    console.print(tune_table(answer))
    print_ending(console, written, command)


def _print_json(answer: TuneAnswer, command: str, written: Sequence[Path]) -> None:
    content = {
        "schema": _SCHEMA,
        **answer.as_dict(),
        "written": [str(path) for path in written],
        "command": command,
    }
    print_json(content)


_PRINT = {"json": _print_json, "table": _print_table}


if __name__ == "__main__":
    main()
