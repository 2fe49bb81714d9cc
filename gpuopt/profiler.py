"""Record a few steps of a real training, and say where their time goes."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from gpuopt.answers import print_ending, table_console
from gpuopt.configuration import check_machine
from gpuopt.entry import checked, folder_words, run_command, typed_keys
from gpuopt.errors import FaultError, InputError
from gpuopt.hardware import driver_devices
from gpuopt.logs import logging_to
from gpuopt.profiling.files import new_folder
from gpuopt.profiling.nsys import REPORT, nsys_command
from gpuopt.profiling.window import Window
from gpuopt.run import remove_empty
from gpuopt.schema import ProfilerConfig, to_profiler_config

__all__ = ["main"]

# Else the profiler's own library writes to the terminal when it starts and ends.
_QUIET = {"KINETO_LOG_LEVEL": "6", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def main() -> None:
    """Run `gpuopt profiler`."""
    run_command("profiler", _profile, leaves_files=True)


def _profile(composed: DictConfig) -> None:
    settings, typed = checked(composed), typed_keys(HydraConfig.get())
    config = _with_fold(to_profiler_config(settings), typed)
    steps = config.steps if config.wait == "auto" or "steps" in typed else None
    window = Window.of(steps, config.wait, config.warmup, config.active)
    check_machine(settings)
    if config.nsys is True:
        _run_nsys(config)
    elif config.nsys == "marks":
        _mark(config, window)
    else:
        _record(config, window)


def _mark(config: ProfilerConfig, window: Window) -> None:
    from gpuopt.profiled_run import mark

    with logging_to(None), _progress() as on_step:
        run = mark(config, window, on_step)
    sys.stdout.write(f"steps that are marked: {run.marks.marked_steps}\n")


def _record(config: ProfilerConfig, window: Window) -> None:
    os.environ.update({**_QUIET, **os.environ})
    with _folder(config.output) as folder:
        # Only now: torch and Lightning take seconds to import, and bad input ends before.
        from gpuopt.profiled_run import record
        from gpuopt.profiling.table import profile_table

        with logging_to(None), _progress() as on_step:
            profile, files = record(config, window, folder, on_step)

    console = table_console()
    console.print(profile_table(profile))
    print_ending(console, files[:1], None)


def _with_fold(config: ProfilerConfig, typed: Collection[str]) -> ProfilerConfig:
    """Train the fold that is named, of several the first, or else the run's own split."""
    if config.fold is None and "folds" not in typed:
        return replace(config, folds=None)
    return replace(config, fold=config.fold or 0)


@contextlib.contextmanager
def _folder(parent: str) -> Iterator[Path]:
    """Make the folder of this profile, and take it away when nothing came to lie in it."""
    try:
        folder = new_folder(Path(parent).expanduser(), time.strftime("%Y-%m-%d_%H-%M-%S"))
    except OSError as error:
        raise InputError(
            f"output={parent} cannot be made ({error.strerror}): name another folder"
        ) from error
    try:
        yield folder
    finally:
        remove_empty(folder)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show the steps that are done, where somebody looks."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("steps", total=None)
        yield lambda done, steps: progress.update(task, completed=done, total=steps)


# --- Nsight Systems ----------------------------------------------------------------------------


def _run_nsys(config: ProfilerConfig) -> None:
    """Print the call of nsys that records this command, and run it."""
    has_cuda = not config.gpu.is_cpu and "cuda" in config.activities and bool(driver_devices())
    with _folder(config.output) as folder:
        command = nsys_command(
            [sys.executable, "-m", "gpuopt.profiler", *_words()],
            folder,
            has_cuda=has_cuda,
            memory=config.profile_memory,
            stacks=config.with_stack,
        )
        sys.stdout.write(f"{shlex.join(command)}\n")
        sys.stdout.flush()
        if shutil.which(command[0]) is None:
            raise InputError(
                "nsys is not there: install Nvidia's Nsight Systems and run the line above again, "
                "or leave nsys=true out"
            )
        code = subprocess.run(command, check=False).returncode
        report = folder / f"{REPORT}.nsys-rep"
        if code or not report.is_file():
            raise FaultError(f"nsys ended with exit code {code} and without {report}: see above")
    sys.stdout.write(f"written: {report}; open it in Nsight Systems, or with nsys stats\n")


def _words() -> list[str]:
    """Repeat what was typed, for a process that only marks the steps."""
    typed = HydraConfig.get().overrides.task
    kept = [w for w in typed if w.partition("=")[0] not in ("nsys", "output")]
    return [*folder_words(), *kept, "nsys=marks"]


if __name__ == "__main__":
    main()
