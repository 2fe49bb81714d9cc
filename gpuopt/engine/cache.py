"""Engines that were built are kept, and used again while nothing that they depend on changes."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from gpuopt.engine.cache_key import differing, engine_key, shapes_digest
from gpuopt.engine.files import EngineFile
from gpuopt.engine.protocol import (
    Backend,
    CannotShare,
    Engine,
    EngineRequest,
    SharingBackend,
    TrainedNetwork,
)
from gpuopt.engine.seal import Seal
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import default_cache_dir, wait_for_folder

__all__ = ["EngineCache"]

_log = logging.getLogger(__name__)

# What an engine is for. All else in a key are surroundings, such as versions: an engine for the
# same use in other surroundings takes the old one's place, so that updates do not fill the disk.
_USE = (
    "capability",
    "channels_last",
    "device",
    "engine",
    "float32_matmul",
    "fp32_layers",
    "graph",
    "image_size",
    "max_batch_size",
    "memory_mib",
    "network",
    "num_classes",
    "optimal_batch_size",
    "precision",
    "processor",
    "weights",
)


class EngineCache:
    """Opens engines, building those that are not there.

    Args:
        folder: Folder of all caches; None means the user's cache folder.
        seal: Of the user.
        tell: Takes one line about each engine that is built; the log when None.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        seal: Seal | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = Path(folder or default_cache_dir()).expanduser() / "engines"
        self.seal = seal or Seal()
        self._tell = tell or (lambda line: _log.info("%s", line))

    def open(self, backend: Backend, request: EngineRequest, network: TrainedNetwork) -> Engine:
        """Load an engine from the cache, or build it first.

        Args:
            backend: How.
            request: What.
            network: From what; left unchanged.

        Raises:
            InputError: When the backend is unavailable.
            FaultError: When the engine cannot be built, kept or loaded.
        """
        return backend.load(request, self.file(backend, request, network).path)

    def file(self, backend: Backend, request: EngineRequest, network: TrainedNetwork) -> EngineFile:
        """Find or build an engine's file; raises as `open`."""
        return self._file(backend, request, network, engine_key(backend, request, network))

    def _file(
        self, backend: Backend, request: EngineRequest, network: TrainedNetwork, key: dict[str, str]
    ) -> EngineFile:
        if reason := backend.unavailable(request.device):
            raise InputError(reason)
        file = self.place(backend, key)
        if file.objection() is None and not file.mismatch(key):
            return file
        slot = file.path.parent
        try:
            slot.mkdir(parents=True, exist_ok=True)
            with wait_for_folder(slot):  # another process may build the same
                self._build(file, backend, request, network, key)
        except OSError as error:
            raise FaultError(
                f"{slot} cannot be written ({error.strerror}): give a cache_dir with room, or take "
                "engine=eager"
            ) from error
        return file

    def present(
        self, backend: Backend, request: EngineRequest, network: TrainedNetwork
    ) -> EngineFile | None:
        """Find an engine's file, and build nothing; None when it would have to be built."""
        key = engine_key(backend, request, network)
        file = self.place(backend, key)
        return file if file.objection() is None and not file.mismatch(key) else None

    def place(self, backend: Backend, key: Mapping[str, str]) -> EngineFile:
        """Name the file of an engine with a key, which may not be there."""
        return EngineFile(self.folder / _slot(key) / f"engine{backend.suffix}", self.seal)

    def _build(
        self,
        file: EngineFile,
        backend: Backend,
        request: EngineRequest,
        network: TrainedNetwork,
        key: dict[str, str],
    ) -> None:
        objection, mismatch = file.objection(), file.mismatch(key)
        if objection is None and not mismatch:
            return
        if objection is None:
            reason = mismatch
        elif file.path.exists():
            reason = f"{file.path} is refused: {objection}"
        else:
            reason = self._nearest(key) or "there is none yet"
        start = time.perf_counter()
        file.build(lambda path: self._write(backend, request, network, path), request, key)
        seconds = time.perf_counter() - start
        self._tell(f"engine={backend.name} for {network.name} built in {seconds:.0f} s: {reason}")

    def _write(
        self, backend: Backend, request: EngineRequest, network: TrainedNetwork, path: Path
    ) -> None:
        """Build an engine, with code that another network of the graph had built if need be."""
        reason = None
        if isinstance(backend, SharingBackend):
            reason = backend.own_build(request.device)
            try:
                if reason is None:
                    maker = backend.code()
                    key = engine_key(maker, request, network, weights=shapes_digest)
                    code = self._file(maker, request, network, key)
                    backend.build_from(code.path, request, network, path)
                    return
            except CannotShare as error:
                path.unlink(missing_ok=True)
                reason = str(error)
        if reason is not None:
            self._tell(f"engine={backend.name} is compiled for these weights alone: {reason}")
        backend.build(request, network, path)

    def _nearest(self, key: Mapping[str, str]) -> str:
        """Name what differs from the most similar engine of the same kind; empty without one."""
        changes: list[list[str]] = []
        for sidecar in self.folder.glob("*/engine.*.json"):
            try:
                other = json.loads(sidecar.read_text("utf-8"))["key"]
                if all(other[name] == key[name] for name in ("engine", "network")):
                    changes.append(differing(key, other))
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return "; ".join(sorted(changes, key=len)[0]) if changes else ""


def _slot(key: Mapping[str, str]) -> str:
    """Name the folder of an engine by what it is for."""
    use = json.dumps([key.get(name) for name in _USE])
    digest = hashlib.sha256(use.encode()).hexdigest()[:16]
    words = "_".join(key[name] for name in ("network", "engine", "precision"))
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', words)[:80].lstrip('.')}_{digest}"
