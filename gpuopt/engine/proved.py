"""Engines that were proved: built and compared once, opened at once ever after."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from gpuopt.choice import Choice
from gpuopt.engine.accepted import Accepted, AcceptedEngines, choice_of
from gpuopt.engine.backends import file_backend, live_backend
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import engine_key, network_key, weights_digest
from gpuopt.engine.fallback import ProofImages, VerifiedEngine, build_verified
from gpuopt.engine.files import EngineFile
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.verification import Bounds, write_report
from gpuopt.errors import InputError

__all__ = ["ProvedEngines"]

_BOUNDS = Bounds()


class ProvedEngines:
    """Opens engines that answer as the network that they were made from.

    Args:
        network: Left unchanged.
        cache: Keeps the engines, the reports on them, and which one was accepted.
        tell: Takes one line for each step.
        provider: Of ONNX Runtime; see `Onnx`.
        bounds: What proves an engine.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        cache: EngineCache,
        *,
        tell: Callable[[str], None],
        provider: str = "auto",
        bounds: Bounds = _BOUNDS,
    ) -> None:
        self._network = network
        self._cache = cache
        self._tell = tell
        self._provider = provider
        self._bounds = bounds
        self._accepted = AcceptedEngines(cache, provider=provider, bounds=bounds)

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
        report = self._accepted.report(file)
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
        words = network_key(self._network)
        found = self._accepted.find(engines, request, words["weights"])
        if found is None or found.engine != "eager":
            return self._accepted.open(engines, request, words)
        others = ", ".join(one for one in engines if one != "eager")
        outcome = f"{others}: rejected" if others else "proved"
        reason = f"{outcome} before, here and for these weights"
        return self.make("eager", found.request), Choice("engine", "eager", "measured", reason)

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
        with contextlib.suppress(OSError):
            if file is not None:
                write_report(file.path, found.verification)
            if not any(attempt.fault for attempt in found.attempts):
                accepted = Accepted(found.engine.name, found.request)
                weights = weights_digest(self._network)
                self._accepted.keep(engines, request, weights, accepted)
