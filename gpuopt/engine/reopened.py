"""Engines that were proved for a file of weights, opened again without the network.

Building a network takes timm, which takes seconds to import, and the weights that the engine holds
already. So the engine that a file led to is noted beside the engines, under all that decided it.
The note is sealed: an engine of other weights would answer without a word.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpuopt.choice import Choice, Evidence
from gpuopt.engine.backends import file_backend
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import device_key, own_versions
from gpuopt.engine.files import EngineFile
from gpuopt.engine.protocol import Engine, EngineRequest
from gpuopt.engine.verification import Bounds, read_report
from gpuopt.engine.verify import library_versions
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import write_json

__all__ = ["ReopenedEngines", "choice_of", "note_path"]

_BOUNDS = Bounds()
_SCHEMA = 1


class ReopenedEngines:
    """Opens what was proved for a file of weights.

    Args:
        cache: Holds the engines.
        provider: Of ONNX Runtime; see `Onnx`.
        bounds: What proves an engine.
    """

    def __init__(
        self, cache: EngineCache, *, provider: str = "auto", bounds: Bounds = _BOUNDS
    ) -> None:
        self._cache = cache
        self._provider = provider
        self._bounds = bounds

    def knows(self, engines: Sequence[str], request: EngineRequest, sha256: str) -> bool:
        """Say whether an engine is noted for a file, whatever became of it since."""
        return self._note(engines, request, sha256) is not None

    def open(
        self, engines: Sequence[str], request: EngineRequest, sha256: str
    ) -> tuple[Engine, Choice] | None:
        """Open the engine that was proved for a file of weights.

        Args:
            engines: That were asked for, in the order of preference.
            request: What was wanted.
            sha256: Of the file of weights.

        Returns:
            None when there is none, or it is not what it was: then the network has to be built.
        """
        note = self._note(engines, request, sha256)
        if note is None:
            return None
        with contextlib.suppress(FaultError, InputError, KeyError, TypeError):
            name = str(note["engine"])
            layers = tuple(map(str, note["fp32_layers"]))
            accepted = replace(request, precision=str(note["precision"]), fp32_layers=layers)
            file = EngineFile(self._cache.folder / str(note["file"]), self._cache.seal)
            backend = file_backend(name, provider=self._provider)
            if backend is None or backend.unavailable(request.device):
                return None
            if file.objection() is not None or file.content()["sha256"] != note["sha256"]:
                return None
            report = read_report(file.path, note["sha256"])
            if report is None or not report.accepted or report.bounds != self._bounds:
                return None
            engine = backend.load(accepted, file.path)
            if report.is_of(engine):
                return engine, choice_of(engines, name, str(report))
        return None

    def remember(
        self,
        engines: Sequence[str],
        request: EngineRequest,
        sha256: str,
        file: EngineFile,
        accepted: EngineRequest,
    ) -> None:
        """Note which engine a file of weights led to; where that cannot be kept, it takes longer.

        Args:
            engines: That were asked for.
            request: What was wanted.
            sha256: Of the file of weights.
            file: Of the engine, in the cache.
            accepted: What the engine was asked to be in the end.
        """
        content = {
            "schema": _SCHEMA,
            "weights_file": sha256,
            "engine": file.engine,
            "precision": accepted.precision,
            "fp32_layers": list(accepted.fp32_layers),
            "file": str(file.path.relative_to(self._cache.folder)),
            "sha256": file.content().get("sha256"),
        }
        self._write(self._path(engines, request, sha256), content)

    def digest_of(self, sha256: str) -> str | None:
        """Return the digest of the weights in a file, by which benchmarks know them, if noted."""
        note = self._read(self._digest_path(sha256), sha256)
        return None if note is None or note.get("made_by") != own_versions() else note["weights"]

    def remember_digest(self, sha256: str, weights: str) -> None:
        """Note the digest of the weights in a file.

        Args:
            sha256: Of the file.
            weights: As `weights_digest` computes it.
        """
        content = {
            "schema": _SCHEMA,
            "weights_file": sha256,
            "weights": weights,
            "made_by": own_versions(),
        }
        self._write(self._digest_path(sha256), content)

    def _note(
        self, engines: Sequence[str], request: EngineRequest, sha256: str
    ) -> dict[str, Any] | None:
        return self._read(self._path(engines, request, sha256), sha256)

    def _read(self, path: Path, sha256: str) -> dict[str, Any] | None:
        """Read what is noted for a file; None when that was not written for it by this user."""
        try:
            note = json.loads(path.read_text("utf-8"))
            seal = note.pop("seal")
            is_own = self._cache.seal.matches(note, seal) and note["weights_file"] == sha256
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return dict(note) if is_own else None

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a note that is not there yet, sealed; one that cannot be kept only costs time."""
        if self._read(path, str(content["weights_file"])) == content:
            return
        with contextlib.suppress(OSError, FaultError):
            self._cache.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {**content, "seal": self._cache.seal.sign(content)})

    def _path(self, engines: Sequence[str], request: EngineRequest, sha256: str) -> Path:
        return note_path(self._cache.folder, engines, request, self._provider, f"file {sha256}")

    def _digest_path(self, sha256: str) -> Path:
        return self._cache.folder / f"weights_{sha256[:16]}.json"


def note_path(
    folder: Path, engines: Sequence[str], request: EngineRequest, provider: str, weights: str
) -> Path:
    """Name the file that says which engine was accepted.

    Args:
        folder: Of the cache.
        engines: That were asked for, in the order of preference.
        request: What was wanted.
        provider: Of ONNX Runtime.
        weights: Names the weights.
    """
    asked = request.as_dict()
    del asked["device"]  # an index; what the device is counts
    backends = {name: file_backend(name, provider=provider) for name in engines}
    question: Mapping[str, Any] = {
        "engines": list(engines),
        "provider": provider,
        "weights": weights,
        "request": asked,
        "float32_matmul": torch.get_float32_matmul_precision(),
        **device_key(request.device),
        "versions": {**library_versions(), **own_versions()},
        "backends": {n: b.versions(request.device) for n, b in backends.items() if b},
    }
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    return folder / f"accepted_{digest[:16]}.json"


def choice_of(engines: Sequence[str], name: str, reason: str) -> Choice:
    """Word which engine is used, and whether it was the only one that was asked for."""
    evidence: Evidence = "given" if tuple(engines) == (name,) else "measured"
    return Choice("engine", name, evidence, reason)
