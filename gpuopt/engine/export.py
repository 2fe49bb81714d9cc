"""Write the engine of a trained network as a file, proved where there are images to prove it on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpuopt.choice import Choice
from gpuopt.engine.backends import FILE_ENGINES, file_backend, preferred
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.fallback import EngineSearch, ProofImages, VerifiedEngine
from gpuopt.engine.files import EngineFile
from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.seal import Seal
from gpuopt.engine.served_model import require_layers
from gpuopt.engine.verification import Bounds, Verification, report_path, write_report
from gpuopt.errors import FaultError, InputError, TargetNotMetError

__all__ = ["Exported", "choose_engine", "export_engine", "require_free"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The engine's file; its sidecar and report lie beside it.
        request: What it was built for, with the layers that had to stay in fp32.
        verification: The proof; None where there were no images.
    """

    path: Path
    request: EngineRequest
    verification: Verification | None


def choose_engine(engine: str, request: EngineRequest, provider: str) -> Choice:
    """Settle which backend writes the file.

    Args:
        engine: `auto` or a name.
        request: What is wanted, and where.
        provider: Of ONNX Runtime, or `auto`.

    Raises:
        InputError: When the backend is unavailable or keeps no files.
    """
    if engine == "auto":
        usable = [n for n in preferred(request.device, provider=provider) if n in FILE_ENGINES]
        if not usable:
            raise InputError(
                "no engine that is a file is installed here: pip install 'gpuopt[onnx]', or a C++ "
                "compiler for engine=aot_inductor"
            )
        return Choice("engine", usable[0], "table", f"usable here: {', '.join(usable)}")
    backend = file_backend(engine, provider=provider)
    if backend is None:
        raise InputError(
            f"engine={engine} lives in a process and is no file: choose one of "
            f"{', '.join(FILE_ENGINES)}"
        )
    if reason := backend.unavailable(request.device):
        raise InputError(reason)
    return Choice("engine", engine, "given", "asked for")


def require_free(path: Path, seal: Seal | None = None) -> None:
    """Refuse to overwrite anything but an engine of this user, or what an interrupted export left.

    A sidecar or a report is written beside the engine: without an engine of one's own between
    them, files of those names are someone's, such as the results of a run.

    Raises:
        InputError: Names the file.
    """
    file = EngineFile(path, seal or Seal())
    if file.is_interrupted():
        return
    if os.path.lexists(path):
        if file.objection() is not None:
            raise InputError(f"output={path} exists and is no engine of yours: name another file")
        return
    for beside in (file.sidecar, report_path(path)):
        if os.path.lexists(beside):
            raise InputError(
                f"output={path} would overwrite {beside}, which is of no engine: name another file"
            )


def export_engine(
    engine: str,
    request: EngineRequest,
    network: TrainedNetwork,
    output: Path,
    proof: Callable[[], ProofImages] | None,
    *,
    cache_dir: str | None,
    provider: str,
    tell: Callable[[str], None],
) -> Exported:
    """Build an engine, prove it, and write it with its sidecar and its report.

    Args:
        engine: One of `FILE_ENGINES`.
        request: What is wanted.
        network: Left unchanged.
        output: A new file, or an engine that was exported there before.
        proof: Reads real images; None leaves the engine unproved, until it is first used.
        cache_dir: Folder of all caches; None means the user's.
        provider: Of ONNX Runtime, or `auto`.
        tell: Takes one line for each step.

    Raises:
        InputError: When the engine is unavailable, the file is someone else's, or the network has
            no such layer to keep in fp32.
        FaultError: When it cannot be built or written.
        TargetNotMetError: When no form of it answers as the network does.
    """
    require_free(output)
    require_layers(network.backbone, request.fp32_layers)
    cache = EngineCache(cache_dir, tell=tell)
    made = ProvedEngines(network, cache, tell=tell, provider=provider)
    verification = None
    images = proof() if proof is not None else None
    least = Bounds().least_images
    if images is not None and len(images.names) < least:
        tell(f"{len(images.names)} images cannot prove an engine: at least {least} are needed")
    elif images is not None:
        found = _prove(engine, request, network, images, made, tell)
        made.remember((engine,), request, found)
        request, verification = found.request, found.verification
    backend = file_backend(engine, provider=provider)
    if backend is None:
        raise InputError(f"engine={engine} keeps no file")
    built = cache.file(backend, request, network)
    EngineFile(output, cache.seal).copy_of(built, request)
    if verification is not None:
        try:
            write_report(output, verification)
        except OSError as error:
            raise FaultError(
                f"the report beside {output} cannot be written ({error.strerror}): free space"
            ) from error
    return Exported(output, request, verification)


def _prove(
    engine: str,
    request: EngineRequest,
    network: TrainedNetwork,
    proof: ProofImages,
    made: ProvedEngines,
    tell: Callable[[str], None],
) -> VerifiedEngine:
    """Find the form of an engine that is proved: as asked, else with more layers in fp32."""
    search = EngineSearch(request, network, proof, make=made.make, tell=tell)
    found, attempts = search.prove(engine)
    if found is None:
        raise TargetNotMetError(
            f"no form of engine={engine} answers as the model does: {attempts[-1]}; take another "
            "engine, or precision=fp32"
        )
    return found
