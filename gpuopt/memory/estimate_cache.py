"""Predictions on disk, by everything that they depend on."""

import contextlib
import functools
import hashlib
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpuopt.memory.estimate import FixedMemory, Line, MemoryEstimate
from gpuopt.memory.setup import MemorySetup
from gpuopt.storage import default_cache_dir, write_json

__all__ = ["EstimateCache"]

_PACKAGES = ("gpuopt", "timm", "torch")


class EstimateCache:
    """One small JSON file for each prediction.

    Args:
        folder: Folder of all caches; None means the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or default_cache_dir()) / "memory"

    def read(self, setup: MemorySetup) -> MemoryEstimate | None:
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

    def write(self, setup: MemorySetup, estimate: MemoryEstimate) -> None:
        """Keep a prediction; a folder that cannot be written only costs time."""
        question, answer = _question(setup), _plain(estimate)
        content = {"question": question, "answer": answer, "sum": _digest(answer)}
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._path(question), content)

    def _path(self, question: dict[str, Any]) -> Path:
        return self.folder / f"{_digest(question)[:32]}.json"


def _question(setup: MemorySetup) -> dict[str, Any]:
    precision = "half" if setup.in_half else "single"  # of each kind all take the same
    return {**asdict(setup), "precision": precision, "code": _code(), **_versions()}


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
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(estimate: MemoryEstimate) -> dict[str, Any]:
    lines = [[line.base_bytes, line.bytes_per_sample] for line in estimate.lines]
    return {"fixed": asdict(estimate.fixed), "lines": lines, "image_size": estimate.image_size}


def _from_plain(answer: dict[str, Any]) -> MemoryEstimate:
    lines = tuple(Line(*pair) for pair in answer["lines"])
    return MemoryEstimate(FixedMemory(**answer["fixed"]), lines, answer["image_size"])
