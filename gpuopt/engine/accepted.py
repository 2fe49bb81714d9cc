"""Which engine was accepted for a network, and its opening without the network.

Of a network an engine's key has four words, see `network_key`. Whoever knows them for a file of
weights need not build the network, which takes timm, seconds of importing, and the weights that the
engine holds already.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuopt.choice import Choice, Evidence
from gpuopt.engine.backends import file_backend
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import device_key, key_of, own_versions
from gpuopt.engine.files import EngineFile
from gpuopt.engine.protocol import Backend, Engine, EngineRequest
from gpuopt.engine.verification import Bounds, Verification, read_report
from gpuopt.engine.verify import library_versions
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import write_json

__all__ = ["Accepted", "AcceptedEngines", "choice_of"]

_SCHEMA = 1


@dataclass(frozen=True)
class Accepted:
    """What was accepted.

    Attributes:
        engine: Backend.
        request: What it was asked to be in the end.
    """

    engine: str
    request: EngineRequest


class AcceptedEngines:
    """Keeps which engines were accepted, and opens them.

    Args:
        cache: Holds the engines.
        provider: Of ONNX Runtime; see `Onnx`.
        bounds: What proves an engine.
    """

    def __init__(self, cache: EngineCache, *, provider: str, bounds: Bounds) -> None:
        self._cache = cache
        self._provider = provider
        self._bounds = bounds

    def find(self, engines: Sequence[str], request: EngineRequest, weights: str) -> Accepted | None:
        """Read which engine was accepted, whatever became of it since.

        Args:
            engines: That were asked for, in the order of preference.
            request: What was wanted.
            weights: Digest of the network's.
        """
        try:
            content = json.loads(self._path(engines, request, weights).read_text("utf-8"))
            precision, layers = str(content["precision"]), tuple(map(str, content["fp32_layers"]))
            accepted = replace(request, precision=precision, fp32_layers=layers)
            return Accepted(str(content["engine"]), accepted)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def keep(
        self, engines: Sequence[str], request: EngineRequest, weights: str, accepted: Accepted
    ) -> None:
        """Keep which engine was accepted; raises OSError where it cannot be written."""
        content = {
            "schema": _SCHEMA,
            "engine": accepted.engine,
            "precision": accepted.request.precision,
            "fp32_layers": list(accepted.request.fp32_layers),
        }
        self._cache.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(engines, request, weights), content)

    def is_there(
        self, engines: Sequence[str], request: EngineRequest, words: Mapping[str, str]
    ) -> bool:
        """Say whether an engine was accepted and has its file, without reading all of that.

        Args:
            engines: That were asked for.
            request: What was wanted.
            words: Of the network's key.
        """
        found = self.find(engines, request, words["weights"])
        place = None if found is None else self._place(found, words)
        return place is not None and place[1].path.is_file()

    def open(
        self, engines: Sequence[str], request: EngineRequest, words: Mapping[str, str]
    ) -> tuple[Engine, Choice] | None:
        """Open the engine that was accepted, when its file and its report are still there.

        Args:
            engines: That were asked for.
            request: What was wanted.
            words: Of the network's key.

        Returns:
            None when there is none, or none that has a file.
        """
        found = self.find(engines, request, words["weights"])
        if found is None:
            return None
        with contextlib.suppress(FaultError, InputError):  # it does not load, or is from elsewhere
            place = self._place(found, words)
            if place is None:
                return None
            backend, file = place
            report = None if file.objection() is not None else self.report(file)
            if report is None:
                return None
            engine = backend.load(found.request, file.path)
            if report.is_of(engine):
                return engine, choice_of(engines, found.engine, str(report))
        return None

    def report(self, file: EngineFile) -> Verification | None:
        """Read the proof of an engine that is what its sidecar says; None when it was rejected."""
        report = read_report(file.path, file.content().get("sha256"))
        enough = report is not None and report.accepted and report.bounds == self._bounds
        return report if enough else None

    def _place(
        self, found: Accepted, words: Mapping[str, str]
    ) -> tuple[Backend, EngineFile] | None:
        """Name an engine's file where its sidecar says that it is for this; its content may not."""
        backend = file_backend(found.engine, provider=self._provider)
        if backend is None or backend.unavailable(found.request.device):
            return None
        key = key_of(backend, found.request, words)
        file = self._cache.place(backend, key)
        return None if file.mismatch(key) else (backend, file)

    def _path(self, engines: Sequence[str], request: EngineRequest, weights: str) -> Path:
        asked = request.as_dict()
        del asked["device"]  # an index; what the device is counts
        backends = {name: file_backend(name, provider=self._provider) for name in engines}
        question: Mapping[str, Any] = {
            "engines": list(engines),
            "provider": self._provider,
            "weights": weights,
            "request": asked,
            **device_key(request.device),
            "versions": {**library_versions(), **own_versions()},
            "backends": {n: b.versions(request.device) for n, b in backends.items() if b},
        }
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        return self._cache.folder / f"accepted_{digest[:16]}.json"


def choice_of(engines: Sequence[str], name: str, reason: str) -> Choice:
    """Word which engine is used, and whether it was the only one that was asked for."""
    evidence: Evidence = "given" if tuple(engines) == (name,) else "measured"
    return Choice("engine", name, evidence, reason)
