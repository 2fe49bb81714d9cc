"""Steps that were followed, on disk by everything that they depend on."""

import contextlib
import functools
import hashlib
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpuopt.memory.estimate import Line, StepMemory
from gpuopt.memory.setup import MemorySetup
from gpuopt.storage import default_cache_dir, write_json

__all__ = ["StepCache"]

_PACKAGES = ("gpuopt", "timm", "torch")


class StepCache:
    """One small JSON file for each step.

    Args:
        folder: Folder of all caches; None means the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or default_cache_dir()).expanduser() / "memory"

    def read(self, setup: MemorySetup) -> StepMemory | None:
        """Return what is kept, or None when there is nothing or it is damaged."""
        question = _question(setup)
        try:
            content = json.loads(self._path(question).read_text("utf-8"))
            # A file that was cut off or edited, or one under another's name.
            if content["question"] != question or content["sum"] != _digest(content["answer"]):
                return None
            return _from_plain(content["answer"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, setup: MemorySetup, step: StepMemory) -> None:
        """Keep a step; a folder that cannot be written only costs time."""
        question, answer = _question(setup), _plain(step)
        content = {"question": question, "answer": answer, "sum": _digest(answer)}
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._path(question), content)

    def _path(self, question: dict[str, Any]) -> Path:
        return self.folder / f"{_digest(question)[:32]}.json"


def _question(setup: MemorySetup) -> dict[str, Any]:
    """Word what the step depends on; the optimizer and the weights' average are no part of it."""
    return {
        "model_name": setup.model_name,
        "image_size": setup.image_size,
        "in_half": setup.in_half,
        "checkpointing": setup.checkpointing,
        "num_classes": setup.num_classes,
        "drop_rate": setup.drop_rate,
        "drop_path_rate": setup.drop_path_rate,
        "frozen_statistics": setup.frozen_statistics,
        "training": setup.training,
        "accumulates": setup.accumulates,
        "code": _code(),
        **_versions(),
    }


@functools.cache
def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # gpuopt itself, on a path without being installed
            found[package] = None
    return found


@functools.cache
def _code() -> str:
    """Digest the predictor itself, which changes between versions as well."""
    own, package = Path(__file__).parent, Path(__file__).parents[1]
    sources = sorted([*own.glob("*.py"), *(package / "recomputation").glob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(step: StepMemory) -> dict[str, Any]:
    lines = [[line.base_bytes, line.bytes_per_sample] for line in step.lines]
    return {**asdict(step), "lines": lines}


def _from_plain(answer: dict[str, Any]) -> StepMemory:
    return StepMemory(**{**answer, "lines": tuple(Line(*pair) for pair in answer["lines"])})
