"""Engines that were proved: built and compared once, opened at once ever after."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gpuopt.choice import Choice
from gpuopt.engine.backends import file_backend, live_backend
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import engine_key, weights_digest
from gpuopt.engine.fallback import ProofImages, VerifiedEngine, build_verified
from gpuopt.engine.files import EngineFile
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.reopened import ReopenedEngines, choice_of, note_path
from gpuopt.engine.verification import Bounds, Verification, read_report, write_report
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import write_json

__all__ = ["ProvedEngines"]

_BOUNDS = Bounds()
_SCHEMA = 1


class ProvedEngines:
    """Opens engines that answer as the network that they were made from.

    Args:
        network: Left unchanged.
        cache: Keeps the engines, the reports on them, and which one was accepted.
        tell: Takes one line for each step.
        provider: Of ONNX Runtime; see `Onnx`.
        bounds: What proves an engine.
        source: SHA-256 of the file that the weights came from; with it the next process opens the
            engine without the network, see `ReopenedEngines`.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        cache: EngineCache,
        *,
        tell: Callable[[str], None],
        provider: str = "auto",
        bounds: Bounds = _BOUNDS,
        source: str | None = None,
    ) -> None:
        # Gigabytes with many folds: they are digested once, and not once for each question.
        self._network = replace(network, digest=weights_digest(network))
        self._cache = cache
        self._tell = tell
        self._provider = provider
        self._bounds = bounds
        self._source = source

    def make(self, name: str, request: EngineRequest) -> Engine:
        """Open an engine that need not be proved yet; see `EngineCache.open`."""
        live = live_backend(name)
        if live is not None:
            return live.wrap(request, self._network)
        backend = file_backend(name, provider=self._provider)
        assert backend is not None  # it is one or the other
        return self._cache.open(backend, request, self._network)

    def open(
        self, engines: Sequence[str], request: EngineRequest, proof: Callable[[], ProofImages]
    ) -> tuple[Engine, Choice]:
        """Open the first engine that is proved; see `build_verified`.

        Args:
            engines: In the order of preference; a single one that is unavailable is refused.
            request: What is wanted.
            proof: Reads real images; called only when something has to be proved.

        Raises:
            InputError: When the only engine is unavailable, or there are too few images.
            FaultError: When not even eager in fp32 is proved.
        """
        self._refuse_unavailable(engines, request)
        if (known := self._known(engines, request)) is not None:
            return known
        found = self._prove(engines, request, proof, self.make)
        self.remember(engines, request, found)
        choice = found.choice
        return found.engine, choice_of(engines, str(choice.value), choice.reason)

    def open_file(
        self, file: EngineFile, request: EngineRequest, proof: Callable[[], ProofImages]
    ) -> tuple[Engine, Choice]:
        """Open the engine of one file, which may not be proved yet.

        A file for something else than is there is left alone, and its like built in the cache.

        Args:
            file: Of `gpuopt export`.
            request: What the network takes and where; the rest is as the file was built.
            proof: As for `open`.

        Raises:
            InputError: When the file is refused, or as `open`.
            FaultError: As `open`.
        """
        file.require()
        wanted = replace(
            file.request(request.device),
            image_size=request.image_size,
            num_classes=request.num_classes,
        )
        name = file.engine
        self._refuse_unavailable((name,), wanted)
        backend = file_backend(name, provider=self._provider)
        if backend is None:
            raise InputError(f"{file.path} is no engine of gpuopt: engine={name} keeps no file")
        mismatch = file.mismatch(engine_key(backend, wanted, self._network))
        if mismatch:
            self._tell(f"{file.path} does not fit and is not used: {mismatch}")
            return self.open((name,), wanted, proof)
        report = self._report(file)
        if report is not None:
            engine = backend.load(wanted, file.path)
            if report.is_of(engine):
                return engine, Choice("engine", name, "given", str(report))
            del engine
            self._tell(f"{file.path} was proved with provider={report.provider}, not with this one")

        def make(asked_name: str, asked: EngineRequest) -> Engine:
            is_file = (asked_name, asked) == (name, wanted)
            return backend.load(asked, file.path) if is_file else self.make(asked_name, asked)

        found = self._prove((name,), wanted, proof, make)
        if (found.engine.name, found.request) == (name, wanted):
            with contextlib.suppress(OSError):  # a folder of others: it is proved again
                write_report(file.path, found.verification)
        return found.engine, found.choice

    def file(self, name: str, request: EngineRequest) -> EngineFile | None:
        """Return the file of an engine that is there, whole and for this request, else None."""
        backend = file_backend(name, provider=self._provider)
        if backend is None or backend.unavailable(request.device):
            return None
        return self._cache.present(backend, request, self._network)

    def _prove(
        self,
        engines: Sequence[str],
        request: EngineRequest,
        proof: Callable[[], ProofImages],
        make: Callable[[str, EngineRequest], Engine],
    ) -> VerifiedEngine:
        return build_verified(
            request,
            self._network,
            engines,
            proof(),
            make=make,
            tell=self._tell,
            bounds=self._bounds,
        )

    def _refuse_unavailable(self, engines: Sequence[str], request: EngineRequest) -> None:
        if len(engines) != 1:
            return
        backend = file_backend(engines[0], provider=self._provider) or live_backend(engines[0])
        if backend is not None and (reason := backend.unavailable(request.device)):
            raise InputError(reason)

    def _known(
        self, engines: Sequence[str], request: EngineRequest
    ) -> tuple[Engine, Choice] | None:
        """Load what was accepted before, when its file and its report are still there."""
        try:
            content = json.loads(self._memo(engines, request).read_text("utf-8"))
            name, precision = str(content["engine"]), str(content["precision"])
            layers = tuple(map(str, content["fp32_layers"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        accepted = replace(request, precision=precision, fp32_layers=layers)
        if name == "eager":
            others = ", ".join(one for one in engines if one != name)
            outcome = f"{others}: rejected" if others else "proved"
            reason = f"{outcome} before, here and for these weights"
            return self.make(name, accepted), Choice("engine", name, "measured", reason)
        with contextlib.suppress(FaultError, InputError):  # it does not load, or is from elsewhere
            file = self.file(name, accepted)
            report = self._report(file)
            if file is not None and report is not None:
                backend = file_backend(name, provider=self._provider)
                assert backend is not None  # it has a file
                engine = backend.load(accepted, file.path)
                if report.is_of(engine):
                    self._note(engines, request, file, accepted)
                    return engine, choice_of(engines, name, str(report))
        return None

    def _report(self, file: EngineFile | None) -> Verification | None:
        # Its content was digested when it was found whole.
        report = None if file is None else read_report(file.path, file.content().get("sha256"))
        enough = report is not None and report.accepted and report.bounds == self._bounds
        return report if enough else None

    def remember(
        self, engines: Sequence[str], request: EngineRequest, found: VerifiedEngine
    ) -> None:
        """Keep the report and the choice; where they cannot be kept, the proof is done again.

        What failed on the way, such as for memory that others held, is no proof against an engine:
        the choice is not kept then, and all is tried again the next time.
        """
        file = self.file(found.engine.name, found.request)
        if file is None and found.engine.name != "eager":
            return  # it lives in this process, and is compiled and proved anew in the next one
        content = {
            "schema": _SCHEMA,
            "engine": found.engine.name,
            "precision": found.request.precision,
            "fp32_layers": list(found.request.fp32_layers),
        }
        with contextlib.suppress(OSError):
            if file is not None:
                write_report(file.path, found.verification)
            if not any(attempt.fault for attempt in found.attempts):
                self._cache.folder.mkdir(parents=True, exist_ok=True)
                write_json(self._memo(engines, request), content)
                if file is not None:
                    self._note(engines, request, file, found.request)

    def _memo(self, engines: Sequence[str], request: EngineRequest) -> Path:
        """Name the file that says which engine was accepted for a request."""
        weights = weights_digest(self._network)
        return note_path(self._cache.folder, engines, request, self._provider, weights)

    def _note(
        self,
        engines: Sequence[str],
        request: EngineRequest,
        file: EngineFile,
        accepted: EngineRequest,
    ) -> None:
        """Let the next process open the engine without the network."""
        if self._source is not None:
            known = ReopenedEngines(self._cache, provider=self._provider, bounds=self._bounds)
            known.remember(engines, request, self._source, file, accepted)
