"""A run is a folder: its resolved configuration, checkpoints, log and results. Imports no torch."""

import contextlib
import copy
import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gpuopt.errors import InputError
from gpuopt.prediction_folder import folder_of_prediction
from gpuopt.storage import FolderLock, write_json, write_text

__all__ = [
    "RESUMABLE_KEYS",
    "RunFolder",
    "choose_folder",
    "config_digest",
    "fold_folder",
    "has_weights",
    "is_fold",
    "latest_run",
    "read_config",
    "remove_empty",
    "resumed_settings",
]

_CONFIG = "config.yaml"
_RESULTS = "results.json"
_ROOT = Path("outputs/train")
# What may differ between a run and its resumption.
RESUMABLE_KEYS = (
    "cache_dir",
    "data.worker_timeout_s",
    "debug",
    "fold",
    "fold_processes",
    "gpu",
    "micro_batch_size",
    "model.checkpointing",  # gradients are the same to the bit, so it is the card's business
    "num_workers",
    "pin_memory",
    "prefetch_factor",
    "resume",
    "run",
    "trainer.max_epochs",
    "use_calibration",  # comes after training and changes no weight
)


class RunFolder:
    """The files of one run, and the lock that keeps a second process out.

    Args:
        path: The folder; it is made when it does not exist.

    Raises:
        InputError: When the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(self.path)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}): choose another folder with run=..."
            ) from error

    @property
    def checkpoints(self) -> Path:
        """Folder of `last.ckpt`, `previous.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    @property
    def log_path(self) -> Path:
        """Everything that was logged, by all attempts at this run."""
        return self.path / "train.log"

    def file(self, name: str) -> Path:
        """Return the path of a result file."""
        return self.path / name

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Store the resolved configuration."""
        write_text(self.path / _CONFIG, yaml.safe_dump(dict(config), sort_keys=False))

    @contextlib.contextmanager
    def discarded_on_bad_input(self) -> Iterator[None]:
        """Remove a folder that was new when bad input ended its run before the first checkpoint.

        Some input is found bad only after torch is imported, and nothing shall be left of it.
        """
        is_new = not (self.path / _CONFIG).exists()
        try:
            yield
        except InputError:
            if is_new and not has_weights(self.path):
                self._discard()
            raise

    def _discard(self) -> None:
        """Remove what this attempt made; it began with an empty folder."""
        self.lock.release()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        for path in (self.file(_CONFIG), *self.path.glob("train*.log"), self.file(".lock")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.checkpoints.rmdir()
        remove_empty(self.path)  # unless something else was put there meanwhile

    def read_config(self) -> dict[str, Any]:
        """Read the stored configuration.

        Raises:
            InputError: When there is none or it is damaged.
        """
        return read_config(self.path)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Store the results."""
        write_json(self.path / _RESULTS, dict(results))


def choose_folder(config: Mapping[str, Any], fresh: Path, typed: Collection[str] = ()) -> Path:
    """Decide which folder a command works in, and make it when it is new.

    Args:
        config: The composed, resolved configuration.
        fresh: The folder that a new run would get.
        typed: Keys that the user gave on the command line.

    Returns:
        The folder to resume, the one that the user named, or a new one.

    Raises:
        InputError: When there is nothing to resume, what the user typed contradicts the stored
            run, or the folder cannot be made.
    """
    leaves_nothing = {"checkpoint", "purpose"} & config.keys() or fresh == Path()
    if "run" not in config or leaves_nothing:
        return fresh
    if "output" in config:
        return folder_of_prediction(config, fresh.parent) or _unused(fresh)
    resume, named = config.get("resume"), config.get("run") if "resume" in config else None
    if resume in (None, False):
        if named == "latest":
            raise InputError("run=latest names a run to go on with: add resume=true")
        return _require_unused(Path(named).expanduser()) if named else _unused(fresh)
    if resume is not True and named is not None and named != resume:
        raise InputError(f"resume={resume} and run={named} name two folders: give one of them")
    place = named if resume is True else str(resume)
    folder = _find_named(str(place)) if place else _latest_of(config)
    resumed_settings(config, folder, typed)
    return folder


def resumed_settings(
    config: Mapping[str, Any], folder: Path, typed: Collection[str]
) -> dict[str, Any]:
    """Take a stored run's settings, with what the user typed anew and may change.

    Args:
        config: The composed configuration of this call, defaults and all.
        folder: The run to go on with.
        typed: Keys that the user gave on the command line; only these count.

    Raises:
        InputError: When a typed setting that may not change differs; shows the difference.
    """
    stored = read_config(folder)
    if "fold" in typed and is_fold(folder) and config.get("fold") != stored.get("fold"):
        raise InputError(
            f"{folder} is fold {stored.get('fold')} of a run: name the run's own folder, "
            f"{folder.parent}, to train another"
        )
    fixed = [key for key in typed if not _is_under(key, RESUMABLE_KEYS)]
    if "accumulate_grad_batches" in fixed:  # with a micro-batch it determines the global batch
        fixed.append("global_batch_size")
    reaches_everywhere = any(key in ("mode", "experiment") for key in fixed)
    changed = [
        text
        for key, text in _differences(config, stored)
        if not _is_under(key, RESUMABLE_KEYS) and (reaches_everywhere or _is_under(key, fixed))
    ]
    if changed:
        raise InputError(
            f"{folder} was started with another configuration ({'; '.join(changed[:5])}): "
            "leave these settings out, or start a new run"
        )
    settings = copy.deepcopy(stored)
    for key in RESUMABLE_KEYS:
        if any(_is_under(word, (key,)) for word in typed):
            _copy_key(key, config, settings)
    return settings


def latest_run(root: Path = _ROOT, *, trained: bool = False) -> Path:
    """Return the newest run folder.

    Args:
        root: Where runs lie.
        trained: Only look at runs that have a checkpoint.

    Raises:
        InputError: When there is none.
    """
    runs = _newest_first(root)
    if trained:
        runs = [path for path in runs if has_weights(path)]
    if not runs:
        raise InputError(f"there is no run under {root}: train one first, or name one with run=...")
    return runs[0]


def remove_empty(folder: Path) -> None:
    """Remove a folder that a command made, and those of `outputs` around it, if they are empty."""
    root = _ROOT.parent.absolute()
    above = [path for path in folder.absolute().parents if path.is_relative_to(root)]
    with contextlib.suppress(OSError):  # it is not empty
        for path in (folder, *above):
            path.rmdir()


def has_weights(folder: Path) -> bool:
    """Tell whether a run, or one of its folds, has saved a checkpoint."""
    patterns = ("checkpoints/*.ckpt", "fold_*/checkpoints/*.ckpt")
    return any(any(folder.glob(pattern)) for pattern in patterns)


def fold_folder(folder: Path, fold: int) -> Path:
    """Return the folder of one fold of a run; it is a run folder of its own."""
    return folder / f"fold_{fold}"


def is_fold(folder: Path) -> bool:
    """Tell whether a run folder is one of the folds of the run in the folder above."""
    try:
        own, above = read_config(folder), read_config(folder.absolute().parent)
    except InputError:
        return False
    fold, is_same = own.get("fold"), own.get("folds") == above.get("folds")
    return fold is not None and folder.absolute().name == f"fold_{fold}" and is_same


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest what identifies a run: its configuration without the keys that may change."""
    kept = {key: value for key, value in _flatten(config) if not _is_under(key, RESUMABLE_KEYS)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _find_named(name: str) -> Path:
    folder = latest_run() if name == "latest" else Path(name).expanduser()
    if not (folder / _CONFIG).is_file():
        raise InputError(
            f"{name} is not a run folder: it holds no {_CONFIG}; name the folder of a run"
        )
    return folder


def _latest_of(config: Mapping[str, Any]) -> Path:
    digest = config_digest(config)
    for folder in _newest_first(_ROOT):
        try:
            if config_digest(read_config(folder)) == digest:
                return folder
        except InputError:
            continue  # a damaged folder is not the one that is looked for
    raise InputError(
        f"resume=true: no run under {_ROOT} has this configuration; name a folder with resume=PATH"
    )


def _differences(new: Mapping[str, Any], stored: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the keys that differ, each with `key: stored -> new`."""
    old_leaves, new_leaves = dict(_flatten(stored)), dict(_flatten(new))
    return [
        (key, f"{key}: {old_leaves.get(key)} -> {new_leaves.get(key)}")
        for key in sorted(old_leaves.keys() | new_leaves.keys())
        if old_leaves.get(key) != new_leaves.get(key)
    ]


def _is_under(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _copy_key(key: str, source: Mapping[str, Any], target: dict[str, Any]) -> None:
    *groups, name = key.split(".")
    for group in groups:
        source, target = source[group], target[group]
    target[name] = copy.deepcopy(source[name])


def _require_unused(folder: Path) -> Path:
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"run={folder} is a file: name a folder")
        if (folder / _CONFIG).exists():
            raise InputError(f"run={folder} holds a run already: add resume=true, or name another")
        folder.mkdir(parents=True, exist_ok=True)
        # A lock and an empty checkpoint folder are all that a run killed at its start leaves.
        left = [path for path in folder.rglob("*") if path.name not in (".lock", "checkpoints")]
        if left:
            raise InputError(f"run={folder} holds other files: name an empty or a new folder")
    except OSError as error:
        raise InputError(
            f"run={folder} cannot be made ({error.strerror}): name another folder"
        ) from error
    return folder


def _unused(folder: Path) -> Path:
    """Make the folder; a number is added when two runs start within one second."""
    candidate, number = folder, 2
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            candidate = folder.with_name(f"{folder.name}_{number}")
            number += 1
        except OSError as error:
            raise InputError(
                f"{candidate} cannot be made ({error.strerror}): choose another folder with run=..."
            ) from error
        else:
            return candidate


def _newest_first(root: Path) -> list[Path]:
    configs = sorted(root.glob(f"*/{_CONFIG}"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in reversed(configs)]


def read_config(folder: Path) -> dict[str, Any]:
    """Read the stored configuration of a run folder, which need not be writable.

    Raises:
        InputError: When there is none or it is damaged.
    """
    path = folder / _CONFIG
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # also for bytes that are no text
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}): restore it, or start a new run"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no settings; restore it, or start a new run")
    return content


def _flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            items += _flatten(value, f"{prefix}{key}.")
        else:
            items.append((f"{prefix}{key}", value))
    return items
