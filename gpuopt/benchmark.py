"""Benchmark engines: build them from a run, prove them equal to its model, time them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.text import Text

from gpuopt.answers import print_json, table_console
from gpuopt.configuration import check_prediction_places
from gpuopt.entry import checked, run_command
from gpuopt.errors import InputError, one_line
from gpuopt.logs import logging_to
from gpuopt.run_images import given_data, open_data, open_images_of
from gpuopt.schema import CONF_DIR, BenchmarkConfig, to_benchmark_config
from gpuopt.trained_run import data_of_run, find_run, folds_of

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.session.engine_benchmark import BenchmarkSettings

__all__ = ["benchmark", "main"]

_SCHEMA = 1


def main() -> None:
    """Run `gpuopt benchmark`."""
    run_command("benchmark", _benchmark, leaves_files=True)


def _benchmark(composed: DictConfig) -> None:
    config = to_benchmark_config(checked(composed))
    with logging_to(None):
        answer = benchmark(config)
    _PRINT[config.format](answer)


def benchmark(config: BenchmarkConfig) -> Any:
    """Benchmark the engines of a run, or of one file.

    Args:
        config: The checked settings.

    Returns:
        The `EngineAnswer`.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    file = None if config.engine_path is None else Path(config.engine_path).expanduser()
    if file is not None and not file.is_file():
        raise InputError(f"engine_path={file} is no file: name one of gpuopt export")
    place = _find_place(config)
    node, split = _data(config, place)
    # Only now: torch and Lightning take seconds to import, and bad input ends before.
    from gpuopt.hardware import load_catalogue
    from gpuopt.session.engine_benchmark import benchmark_file, benchmark_model
    from gpuopt.session.prediction import find_checkpoint
    from gpuopt.session.weights import load_described
    from gpuopt.storage.checkpoint import read_checkpoint

    open_source = _opener(node, split, config.cache_dir)
    settings, catalogue = _settings(config), load_catalogue(CONF_DIR / "gpu")
    if place is None:
        assert file is not None  # one of the two is there
        return benchmark_file(
            file, open_source, preset=config.gpu, catalogue=catalogue, settings=settings
        )
    weights = find_checkpoint(place)
    model, description = load_described(read_checkpoint(weights), str(weights))
    return benchmark_model(
        model,
        description,
        open_source,
        preset=config.gpu,
        catalogue=catalogue,
        settings=settings,
        run=place if place.is_dir() else None,
        tell=_say,
    )


def _find_place(config: BenchmarkConfig) -> Path | None:
    """Find the run; None for an engine's file alone."""
    if config.engine_path is not None:
        return None
    place = find_run(config.run or "latest")
    if folds_of(place) is not None:
        raise InputError(f"run={place} has several folds: name one, such as run={place}/fold_0")
    return place


def _data(
    config: BenchmarkConfig, place: Path | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read where the images are: what `data=` names, else the run's own with their split."""
    given = given_data(config.data)
    if given is not None:
        check_prediction_places(given)
        return given, None
    if place is None or not place.is_dir():
        raise InputError("say which images to time engines on: data.root=FOLDER")
    return data_of_run(place)


def _opener(
    node: dict[str, Any], split: dict[str, Any] | None, cache_dir: str | None
) -> Callable[[int], Any]:
    """Return what opens the images at a size, without classes where no split is known."""

    def open_source(image_size: int) -> Any:
        if split is None:
            return open_images_of(node, image_size, cache_dir)
        return open_data(node, split, image_size, cache_dir=cache_dir)

    return open_source


def _settings(config: BenchmarkConfig) -> "BenchmarkSettings":
    from gpuopt.session.engine_benchmark import BenchmarkSettings

    return BenchmarkSettings(
        config.engines,
        config.precision.name,
        config.optimal_batch_size,
        config.max_batch_size,
        config.warmup,
        config.runs,
        config.least_proof_images,
        config.cache_dir,
    )


def _say(line: str) -> None:
    sys.stderr.write(one_line(line) + "\n")


def _print_table(answer: Any) -> None:
    # Only now: bad input and JSON need nothing that draws tables.
    from gpuopt.session.engine_table import engine_tables

    console = table_console()
    console.print(engine_tables(answer))
    for choice in answer.choices:
        console.print(Text(one_line(str(choice))), soft_wrap=True)
    if answer.written is not None:
        console.print(Text(f"written: {answer.written}"), soft_wrap=True)


def _print_json(answer: Any) -> None:
    content = {"schema": _SCHEMA, **answer.as_dict()}
    print_json(content)


_PRINT = {"json": _print_json, "table": _print_table}


if __name__ == "__main__":
    main()
