"""A run is a folder: its resolved configuration, checkpoints, log and results. Imports no torch."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from gpuopt.errors import InputError
from gpuopt.storage import FolderLock, write_json, write_text

__all__ = ["RESUMABLE_KEYS", "RunFolder", "choose_folder", "differences", "latest_run"]

_CONFIG = "config.yaml"
_RESULTS = "results.json"
_ROOT = Path("outputs/train")
# What may differ between a run and its resumption; the result stays that of the stored run.
RESUMABLE_KEYS = (
    "cache_dir",
    "debug",
    "gpu",
    "micro_batch_size",
    "num_workers",
    "pin_memory",
    "resume",
    "run",
    "trainer.max_epochs",
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
            if is_new and not any(self.checkpoints.iterdir()):
                self._discard()
            raise

    def _discard(self) -> None:
        """Remove our own files; whatever else lies in a folder that the user named stays."""
        self.lock.release()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        for name in (_CONFIG, "train.log", ".lock"):
            self.file(name).unlink(missing_ok=True)
        self.checkpoints.rmdir()
        with contextlib.suppress(OSError):  # not empty
            self.path.rmdir()

    def read_config(self) -> dict[str, Any]:
        """Read the stored configuration.

        Raises:
            InputError: When there is none or it is damaged.
        """
        return _read_config(self.path)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Store the results."""
        write_json(self.path / _RESULTS, dict(results))

    @property
    def is_finished(self) -> bool:
        """Whether the run wrote its results as finished."""
        return _state(self.path) == "finished"


def choose_folder(config: Mapping[str, Any], fresh: Path) -> Path:
    """Decide which folder a command works in, before any is made.

    Args:
        config: The composed, resolved configuration.
        fresh: The folder that a new run would get.

    Returns:
        The folder to resume, the one that the user named, or a new one that does not exist yet.

    Raises:
        InputError: When there is nothing to resume, or the stored configuration differs.
    """
    if config.get("output"):
        return _folder_of_output(Path(str(config["output"])))
    resume = config.get("resume")
    if resume in (None, False):
        named = config.get("run") if "resume" in config else None
        return _require_unused(Path(named)) if named else _unused(fresh)
    if resume is True:
        named = config.get("run")
        folder = _find_named(str(named)) if named else _latest_of(config)
    else:
        folder = _find_named(str(resume))
    _require_same(config, _read_config(folder), folder)
    return folder


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
        runs = [path for path in runs if any((path / "checkpoints").glob("*.ckpt"))]
    if not runs:
        raise InputError(f"there is no run under {root}: train one first, or name one with run=...")
    return runs[0]


def differences(
    new: Mapping[str, Any], stored: Mapping[str, Any], ignore: Iterable[str] = RESUMABLE_KEYS
) -> list[str]:
    """List what differs between two configurations, as `key: stored -> new`."""
    ignored = tuple(ignore)
    old_leaves, new_leaves = dict(_flatten(stored)), dict(_flatten(new))
    return [
        f"{key}: {old_leaves.get(key)} -> {new_leaves.get(key)}"
        for key in sorted(old_leaves.keys() | new_leaves.keys())
        if old_leaves.get(key) != new_leaves.get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in ignored)
    ]


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest what identifies a run: its configuration without the keys that may change."""
    kept = {
        key: value
        for key, value in _flatten(config)
        if not any(key == name or key.startswith(f"{name}.") for name in RESUMABLE_KEYS)
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _find_named(name: str) -> Path:
    folder = latest_run() if name == "latest" else Path(name)
    if not (folder / _CONFIG).is_file():
        raise InputError(f"{name} is not a run folder: it holds no {_CONFIG}")
    return folder


def _latest_of(config: Mapping[str, Any]) -> Path:
    digest = config_digest(config)
    for folder in _newest_first(_ROOT):
        try:
            if config_digest(_read_config(folder)) == digest:
                return folder
        except InputError:
            continue  # a damaged folder is not the one that is looked for
    raise InputError(
        f"resume=true: no run under {_ROOT} has this configuration; name a folder with resume=PATH"
    )


def _require_same(config: Mapping[str, Any], stored: Mapping[str, Any], folder: Path) -> None:
    changed = differences(config, stored)
    if changed:
        raise InputError(
            f"{folder} was started with another configuration ({'; '.join(changed[:5])}): "
            "repeat its settings, or start a new run"
        )


def _folder_of_output(output: Path) -> Path:
    if output.exists():
        raise InputError(f"output={output} exists: move it away, or name another file")
    if not output.parent.is_dir():
        raise InputError(f"output={output}: the folder {output.parent} does not exist")
    return output.parent


def _require_unused(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"run={folder} is a file: name a folder")
    if _state(folder) is not None or (folder / _CONFIG).exists():
        raise InputError(f"run={folder} holds a run already: add resume=true, or name another")
    return folder


def _unused(folder: Path) -> Path:
    """Add a number when two runs start within one second."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}_{number}")
        number += 1
    return candidate


def _newest_first(root: Path) -> list[Path]:
    configs = sorted(root.glob(f"*/{_CONFIG}"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in reversed(configs)]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no settings")
    return content


def _state(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / _RESULTS).read_text("utf-8"))["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            items += _flatten(value, f"{prefix}{key}.")
        else:
            items.append((f"{prefix}{key}", value))
    return items


def timestamp() -> str:
    """Return the time in UTC, as results store it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
