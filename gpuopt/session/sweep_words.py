"""The command line of a sweep: which folder it works in, new or one to go on with.

Hydra composes every job from its own overrides, so the folder has to be one of them.
"""

import datetime
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from gpuopt.errors import InputError
from gpuopt.override_words import quoted, unquoted
from gpuopt.session.sweep_folder import SweepFolder, newest_sweep

__all__ = ["SWEEPS", "is_sweep", "prepare_sweep", "without_folder"]

SWEEPS = Path("outputs/sweeps")
_MULTIRUN = ("-m", "--multirun")
_FOLDER = "hydra.sweep.dir"
# Choices that need a package of an extra: its module and the extra.
_NEEDED = {
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    "hydra/sweeper=optuna": ("optuna", "optuna"),
}


def is_sweep(words: Sequence[str]) -> bool:
    """Tell whether a command line asks for several jobs."""
    return any(word in _MULTIRUN for word in words)


def prepare_sweep(words: Sequence[str]) -> tuple[list[str], Path]:
    """Decide where a sweep works, and make the folder when it is new.

    Args:
        words: Of the command line, with `-m`; `resume=FOLDER` goes on with the sweep in it,
            `resume=true` with the newest one of the same settings.

    Returns:
        The words for Hydra, and the folder.

    Raises:
        InputError: When there is nothing to resume, settings are typed beside `resume=FOLDER`,
            a package of an extra is not installed, or the folder cannot be made.
    """
    _require_installed(words)
    resume = next((w.partition("=")[2] for w in words if w.startswith("resume=")), "")
    own = [word for word in words if not word.startswith("resume=")]
    if resume and resume.lower() not in ("null", "false"):
        sweep = _to_resume(unquoted(resume), own)
        return ["-m", *sweep.words, _folder_word(sweep.path)], sweep.path
    named = next((w.partition("=")[2] for w in own if w.startswith(f"{_FOLDER}=")), "")
    folder = _named(Path(unquoted(named)).expanduser()) if named else _new()
    return ["-m", *without_folder(own), _folder_word(folder)], folder


def without_folder(words: Sequence[str]) -> list[str]:
    """Return the words that say what a sweep does, not where."""
    return [w for w in words if w not in _MULTIRUN and not w.startswith(f"{_FOLDER}=")]


def _require_installed(words: Sequence[str]) -> None:
    for word in words:
        module, extra = _NEEDED.get(word, ("", ""))
        if module and not _is_installed(module):
            raise InputError(f"{word} is not installed: pip install 'gpuopt[{extra}]'")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def _to_resume(place: str, words: Sequence[str]) -> SweepFolder:
    settings = without_folder(words)
    if place.lower() == "true":
        return newest_sweep(SWEEPS, settings)
    sweep = newest_sweep(SWEEPS) if place == "latest" else SweepFolder(Path(place).expanduser())
    if settings and settings != sweep.words:
        raise InputError(
            f"resume={place} goes on with the settings of that sweep: leave out "
            f"{' '.join(settings[:5])}"
        )
    return sweep


def _named(folder: Path) -> Path:
    if SweepFolder(folder).exists:
        raise InputError(f"{folder} holds a sweep already: add resume={folder}, or name another")
    _make(folder, exist_ok=True)
    return folder


def _new() -> Path:
    """Make a folder named after the time; a number is added when two start in one second."""
    first = SWEEPS / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    candidate, number = first, 2
    while True:
        try:
            _make(candidate, exist_ok=False)
        except FileExistsError:
            candidate = first.with_name(f"{first.name}_{number}")
            number += 1
        else:
            return candidate


def _make(folder: Path, *, exist_ok: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok:
            raise InputError(f"{folder} is a file: name a folder") from None
        raise
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror}): choose another with {_FOLDER}=FOLDER"
        ) from error


def _folder_word(folder: Path) -> str:
    return f"{_FOLDER}={quoted(str(folder))}"
