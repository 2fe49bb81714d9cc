"""A run of several folds: one run folder per fold, trained one after another, and their sum."""

import contextlib
import gc
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console

from gpuopt.configuration.data_names import name_of_data
from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.fold_process import train_in_process
from gpuopt.logs import logging_to
from gpuopt.parallel.ranks import run_ranks
from gpuopt.run import RunFolder, fold_folder, read_config
from gpuopt.session.fold_calibration import calibrate_folds, has_what_calibration_needs
from gpuopt.session.fold_results import FoldResult, has_predictions, read_fold, write_fold_results
from gpuopt.session.fold_summary import summarise_folds
from gpuopt.worker import stopping_on_signals, work

__all__ = ["train_folds"]

_log = logging.getLogger(__name__)


def train_folds(run: RunFolder, config: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Train the folds that are not finished, or the one that `fold` names, and sum up.

    Args:
        run: The folder of the whole, locked, with its configuration.
        config: That configuration; `folds` is a number.
        console: Where plans and results are printed.

    Returns:
        What the `results.json` of the whole holds.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    count, only = int(config["folds"]), config["fold"]
    with contextlib.suppress(OSError):  # empty: the weights lie in the folds' folders
        run.checkpoints.rmdir()
    with stopping_on_signals(run):
        for fold in range(count) if only is None else [int(only)]:
            if _finished(run, config, fold) is not None:
                with logging_to(run.log_path):
                    _log.info("fold %d is finished and not trained again", fold)
                continue
            console.print(f"fold {fold} of {count}", style="bold")
            _train_fold(run, config, fold, console)
            write_fold_results(run.path, count, _all_finished(run, config))
        folds = _all_finished(run, config)
        write_fold_results(run.path, count, folds)
        data = config["data"]
        results = summarise_folds(run.path, count, folds, data, name_of_data(data), console)
        calibration = calibrate_folds(run.path, folds, config, console)
        results["calibration"] = calibration.as_dict() if calibration else None
        run.write_results(results)
    console.print(f"results in {run.path}", soft_wrap=True, markup=False)
    return results


def _train_fold(run: RunFolder, config: Mapping[str, Any], fold: int, console: Console) -> None:
    own = RunFolder(fold_folder(run.path, fold))
    with _naming_the_whole(run, own), own.discarded_on_bad_input():
        with own.lock:
            own.write_config({**config, "fold": fold})
            if not config["fold_processes"]:
                _train_here(own, config, console)
                return
        train_in_process(run, own, debug=bool(config["debug"]))


def _train_here(own: RunFolder, config: Mapping[str, Any], console: Console) -> None:
    devices = int(config["trainer"]["devices"])
    if devices > 1:
        run_ranks(own.path, devices, on_cpu=config["gpu"]["name"] == "cpu")
        return
    with logging_to(own.log_path):
        work(own, console)
    _free_memory()


def _free_memory() -> None:
    """Let the next fold have the memory of this one's model, which its Trainer refers back to."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was not used


@contextlib.contextmanager
def _naming_the_whole(run: RunFolder, own: RunFolder) -> Iterator[None]:
    """Let errors of a fold name the folder by which the whole goes on."""
    try:
        yield
    except (PreemptedError, FaultError, InputError) as error:
        error.args = (str(error).replace(f"resume={own.path}", f"resume={run.path}"),)
        raise


def _all_finished(run: RunFolder, config: Mapping[str, Any]) -> list[FoldResult]:
    found = (_finished(run, config, fold) for fold in range(int(config["folds"])))
    return [fold for fold in found if fold is not None]


def _finished(run: RunFolder, config: Mapping[str, Any], fold: int) -> FoldResult | None:
    """Read a fold that is trained to the length asked for; a resume may ask for more epochs."""
    folder = fold_folder(run.path, fold)
    found = read_fold(folder, fold)
    if found is None or not has_predictions(folder):
        return None
    if not has_what_calibration_needs(folder, config):
        return None
    try:
        length = read_config(folder)["trainer"]["max_epochs"]
    except (InputError, KeyError, TypeError):
        return None
    return found if length == config["trainer"]["max_epochs"] else None
