"""A sweep is a folder: what was asked for, one run folder per job, and how each job ended.

Every fact lies in the folder, one file per job, so that any process, on any node, can rewrite the
table, and a sweep that was killed knows what is missing. Imports no torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gpuopt.errors import InputError
from gpuopt.storage import write_json, write_text

__all__ = ["Job", "SweepFolder", "from_here", "newest_sweep", "swept_settings"]

_SWEEP = "sweep.yaml"
_JOB = "job.json"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        number: From 0, also the name of its folder.
        overrides: Everything that was typed, with this job's values.
        state: `waiting`, `running`, `done`, `refused`, `failed`, `killed` or `stopped`.
        reason: Why it is not done.
        exit_code: Of its process; None before its end or when a signal ended it.
        duration_s: Wall time of all its attempts, in seconds; None before the first.
    """

    number: int
    overrides: tuple[str, ...]
    state: str = "waiting"
    reason: str = ""
    exit_code: int | None = None
    duration_s: float | None = None


class SweepFolder:
    """The files of one sweep.

    Args:
        path: The folder; made by `start`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def exists(self) -> bool:
        """Whether a sweep was started here."""
        return (self.path / _SWEEP).is_file()

    def start(self, words: Sequence[str], jobs: Sequence[Sequence[str]]) -> None:
        """Store what was asked for.

        Args:
            words: The command line, without what names the folder.
            jobs: The overrides of each job.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"words": list(words), "jobs": [list(job) for job in jobs]}
        write_text(self.path / _SWEEP, yaml.safe_dump(content, sort_keys=False))

    @property
    def words(self) -> list[str]:
        """The command line that started the sweep.

        Raises:
            InputError: When the folder holds no sweep, or a damaged one.
        """
        return [str(word) for word in self._read()["words"]]

    @property
    def jobs(self) -> list[Job]:
        """All jobs, each with what is known of it; raises as `words`."""
        return [self._job(number, words) for number, words in enumerate(self._read()["jobs"])]

    def job_folder(self, number: int) -> Path:
        """Return the run folder of a job."""
        return self.path / str(number)

    def write_job(self, job: Job) -> None:
        """Store how a job stands."""
        folder = self.job_folder(job.number)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _JOB, asdict(job))

    def varied_keys(self) -> list[str]:
        """List the keys whose values differ between jobs, in the order of the command line."""
        values: dict[str, set[str]] = {}
        for job in self.jobs:
            for word in job.overrides:
                key, _, value = word.partition("=")
                values.setdefault(key, set()).add(value)
        return [key for key, seen in values.items() if len(seen) > 1]

    def results(self, number: int) -> dict[str, Any]:
        """Read a job's `results.json`; empty when it did not get that far."""
        return _read_json(self.job_folder(number) / "results.json")

    def settings(self, number: int) -> dict[str, Any]:
        """Read a job's resolved configuration; empty when it was refused before it had one."""
        try:
            content = yaml.safe_load((self.job_folder(number) / "config.yaml").read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}

    def _job(self, number: int, words: Sequence[str]) -> Job:
        overrides = tuple(str(word) for word in words)
        stored = _read_json(self.job_folder(number) / _JOB)
        if not stored:
            return Job(number, overrides)
        # A sweep that was killed did not see the end of its job.
        is_done = self.results(number).get("state") == "finished"
        return Job(
            number,
            overrides,
            "done" if is_done else str(stored.get("state", "waiting")),
            "" if is_done else str(stored.get("reason", "")),
            stored.get("exit_code"),
            stored.get("duration_s"),
        )

    def _read(self) -> dict[str, Any]:
        path = self.path / _SWEEP
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"{from_here(self.path)} is not a sweep: it holds no {_SWEEP}"
            ) from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{path} cannot be read ({type(error).__name__})") from error
        lists = [content.get(key) for key in ("words", "jobs")] if isinstance(content, dict) else []
        if not lists or not all(isinstance(value, list) for value in lists):
            raise InputError(f"{path} is damaged: it holds no jobs")
        return dict(content)


def newest_sweep(root: Path, words: Sequence[str] | None = None) -> SweepFolder:
    """Return the sweep that was started last.

    Args:
        root: Where sweeps lie.
        words: Only sweeps of this command line; None takes any.

    Raises:
        InputError: When there is none.
    """
    files = sorted(root.glob(f"*/{_SWEEP}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for file in files:
        sweep = SweepFolder(file.parent)
        try:
            if words is None or sweep.words == list(words):
                return sweep
        except InputError:
            continue  # a damaged one is not the one that is looked for
    what = "no sweep" if words is None else "no sweep of these settings"
    raise InputError(f"there is {what} under {root}: name its folder with resume=FOLDER")


def swept_settings(run_folder: Path) -> dict[str, Any]:
    """Return what varies in the sweep that a run is a job of, with the run's own values.

    Args:
        run_folder: Of any run; empty when it belongs to no sweep.
    """
    sweep = SweepFolder(run_folder.absolute().parent)
    if not (sweep.exists and run_folder.name.isdecimal()):
        return {}
    varied, jobs = sweep.varied_keys(), sweep.jobs
    number = int(run_folder.name)
    words = jobs[number].overrides if number < len(jobs) else ()
    pairs = [word.partition("=")[::2] for word in words]
    return {key: _scalar(value) for key, value in pairs if key in varied}


def _scalar(text: str) -> Any:
    """Read a number or a switch; TensorBoard sorts numbers."""
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):  # the former for a date that is none
        return text
    return value if isinstance(value, bool | int | float) else text


def from_here(path: Path) -> Path:
    """Return a path as people type it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: Mapping[str, Any] | None = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(content) if isinstance(content, Mapping) else {}
