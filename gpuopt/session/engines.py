"""The engine of a prediction: which one, made from which weights, and proved on which images."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpuopt.choice import Choice
from gpuopt.data import PredictionImages, real_images
from gpuopt.engine.accepted import AcceptedEngines
from gpuopt.engine.backends import preferred
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import network_key, weights_digest
from gpuopt.engine.choices import engine_precision
from gpuopt.engine.fallback import ProofImages
from gpuopt.engine.files import EngineFile
from gpuopt.engine.forward import forward_of
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.record import ENGINES, FastEngine, fastest_verified, surroundings_of
from gpuopt.engine.seal import Seal
from gpuopt.engine.trained import network_of
from gpuopt.engine.verification import Bounds
from gpuopt.errors import FaultError, GpuoptError, InputError
from gpuopt.hardware import available_cpus
from gpuopt.session.known_networks import KnownNetworks
from gpuopt.storage import IntactFile, sha256_of

if TYPE_CHECKING:
    from gpuopt.data import ImageDataModule
    from gpuopt.model import ImageNetwork

__all__ = [
    "EngineSettings",
    "PredictionEngines",
    "proof_images",
    "read_proof_images",
]

_BOUNDS = Bounds()
_LEAST = _BOUNDS.least_images
_UNMEASURED = Choice(
    "engine",
    "eager",
    "table",
    "no engine was proved, measured and can be used here; gpuopt benchmark measures",
)
_AT_ONCE = 4  # engines that are read together: the host holds some of them twice meanwhile


@dataclass(frozen=True)
class EngineSettings:
    """What `gpuopt predict` was told about its engine.

    Attributes:
        engine: `auto` or one of `ENGINE_NAMES`.
        path: A file of `gpuopt export`; None takes the cache.
        provider: Of ONNX Runtime, or `auto`.
        optimize: Build and prove the best engine that there is, instead of only using what is
            there.
        precision: As it was asked for, `auto` included.
        cache_dir: Folder of all caches; None means the user's.
    """

    engine: str
    path: str | None
    provider: str
    optimize: bool
    precision: str
    cache_dir: str | None


class PredictionEngines:
    """Puts engines in the place of models.

    Args:
        settings: What is wanted.
        run: Folder of the run, whose record `engine=auto` reads; or a checkpoint file.
        image_size: Side of the images in pixels.
        num_classes: Of the models.
        batch_size: Images per call.
        device: Where they run, with its number.
        proof: Reads real images of the task.
        tell: Takes one line for each step.
    """

    def __init__(
        self,
        settings: EngineSettings,
        run: Path,
        *,
        image_size: int,
        num_classes: int,
        batch_size: int,
        device: torch.device,
        proof: Callable[[], ProofImages],
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._run = run
        self._image_size = image_size
        self._num_classes = num_classes
        self._batch_size = batch_size
        self._device = device
        self._proof = proof
        self._tell = tell
        self._cache = EngineCache(settings.cache_dir, tell=tell)
        self._networks = KnownNetworks(self._cache)

    @property
    def identity(self) -> dict[str, Any]:
        """Name all that decides which engine is taken, in plain values."""
        records = hashlib.sha256()
        for place in (places := self._recorded()):
            records.update(sha256_of(place / ENGINES).encode())
            records.update(place.name.encode())
        file = Path(self._settings.path or "").expanduser()
        return {
            "engine": self._settings.engine,
            "engine_path": self._settings.path,
            "provider": self._settings.provider,
            "optimize": self._settings.optimize,
            "engine_file": sha256_of(file)[:16] if file.is_file() else None,
            "engine_record": records.hexdigest()[:16] if places else None,
        }

    def _recorded(self) -> list[Path]:
        """List the folders of the run, of itself and of folds, that have a record of engines."""
        places = (self._run, *sorted(self._run.glob("fold_*"))) if self._run.is_dir() else ()
        return [place for place in places if (place / ENGINES).is_file()]

    def knows(self, file: IntactFile) -> bool:
        """Say whether an engine is there for a checkpoint, so that its model is not needed."""
        words = self._networks.find(file.sha256)
        return words is not None and any(
            asked.engines.is_there(asked.names, asked.request, words)
            for asked in self._asked(words["weights"])
        )

    def reopen(self, files: Sequence[IntactFile]) -> list[Callable[[Tensor], Tensor] | None]:
        """Open the engines that were proved for checkpoints; None where a model is needed."""
        # Most of the time goes to digests and copies, which leave Python's lock.
        with ThreadPoolExecutor(min(_AT_ONCE, available_cpus())) as pool:
            found = list(pool.map(self._reopened, files))
        for one in found:
            if one is not None:
                self._tell(str(one[1]))
        return [None if one is None else forward_of(one[0]) for one in found]

    def _reopened(self, file: IntactFile) -> tuple[Engine, Choice] | None:
        if (words := self._networks.find(file.sha256)) is None:
            return None
        for asked in self._asked(words["weights"]):
            if found := asked.engines.open(asked.names, asked.request, words):
                engine, choice = found
                return engine, replace(choice, reason=f"{asked.speed}{choice.reason}")
        return None

    def forward_of(self, model: "ImageNetwork", file: IntactFile) -> Callable[[Tensor], Tensor]:
        """Return what is called in place of a model on its device; the model itself for eager.

        Args:
            model: On the device.
            file: Where its weights came from.

        Raises:
            InputError: When the engine is unavailable or refused, or cannot be proved.
            FaultError: When it cannot be built.
        """
        settings = self._settings
        if settings.engine == "eager" and settings.path is None:
            return model
        names = self._named()
        if settings.path is None and not names and not self._recorded():  # no engine is known
            self._tell(str(_UNMEASURED))
            return model
        request, network = self._request(), network_of(model)
        words = network_key(network)
        # Nobody changes them: gigabytes, with many folds, are not digested for each question.
        network = replace(network, digest=words["weights"])
        self._networks.remember(file.sha256, words)
        proved = self._proved(network)
        if settings.path is not None:
            engine_file = EngineFile(Path(settings.path).expanduser(), Seal())
            if engine_file.content() and settings.engine not in ("auto", engine_file.engine):
                raise InputError(
                    f"engine={settings.engine}: {engine_file.path} is one of {engine_file.engine}; "
                    "give engine_path= alone"
                )
            engine, choice = proved.open_file(engine_file, request, self._proof)
        elif names:
            engine, choice = proved.open(names, request, self._proof)
        else:
            found = self._fastest(network, request)
            if found is None:
                self._tell(str(_UNMEASURED))
                return model
            engine, choice = found
        self._tell(str(choice))
        return forward_of(engine)

    def _named(self) -> tuple[str, ...]:
        """List the engines that are asked for, best first; none where a record or a file says."""
        settings = self._settings
        if settings.path is not None or settings.engine == "eager":
            return ()
        if settings.engine != "auto":
            return (settings.engine,)
        if settings.optimize:
            return tuple(preferred(self._device, provider=settings.provider))
        return ()

    def _request(self) -> EngineRequest:
        precision = engine_precision(self._settings.precision, self._device)
        return EngineRequest(
            self._image_size,
            self._num_classes,
            str(precision.value),
            self._batch_size,
            self._batch_size,
            self._device,
        )

    def _asked(self, weights: str) -> "Iterator[_Asked]":
        """List what a prediction with these weights asks for, best first; nothing for a file."""
        if names := self._named():
            yield _Asked(self._accepted(_BOUNDS), names, self._request(), "")
        elif self._settings.path is None and self._settings.engine == "auto":
            for place, best, wanted in self._recorded_for(weights, self._request()):
                if best.name == "eager":  # that is the network, which has to be built
                    return
                engines = self._accepted(Bounds(least_images=best.least_images))
                yield _Asked(engines, (best.name,), wanted, _speed(best, place))

    def _accepted(self, bounds: Bounds) -> AcceptedEngines:
        return AcceptedEngines(self._cache, provider=self._settings.provider, bounds=bounds)

    def _proved(self, network: TrainedNetwork, bounds: Bounds = _BOUNDS) -> ProvedEngines:
        return ProvedEngines(
            network, self._cache, tell=self._tell, provider=self._settings.provider, bounds=bounds
        )

    def _fastest(
        self, network: TrainedNetwork, request: EngineRequest
    ) -> tuple[Engine, Choice] | None:
        """Open the fastest engine of a benchmark of these weights on this device, if there is one.

        None means the model as it was trained, as nothing was measured and proved here. Eager in a
        record is the network as it is served, and that is what is opened then.
        """
        for place, best, wanted in self._recorded_for(weights_digest(network), request):
            # Who was content with fewer images when engines were compared is so now.
            proved = self._proved(network, Bounds(least_images=best.least_images))
            try:
                engine, choice = proved.open((best.name,), wanted, self._proof)
            except GpuoptError as error:  # such as a package that is gone, or no memory for it
                self._tell(f"engine={best.name} is the fastest, but: {error}")
                continue
            return engine, replace(choice, reason=f"{_speed(best, place)}{choice.reason}")
        return None

    def _recorded_for(
        self, weights: str, request: EngineRequest
    ) -> Iterator[tuple[Path, FastEngine, EngineRequest]]:
        """List the fastest engines of these weights on this device, with what to ask them for."""
        here = surroundings_of(weights, request.device, self._image_size)
        for place in self._recorded():
            best = fastest_verified(place, here)
            if best is None or self._settings.precision not in ("auto", best.precision):
                continue
            wanted = replace(
                request,
                precision=best.precision,
                fp32_layers=best.fp32_layers,
                optimal_batch_size=best.optimal_batch_size,
                max_batch_size=best.max_batch_size,
            )
            yield place, best, wanted


@dataclass(frozen=True)
class _Asked:
    """What a prediction asks for, and who knows what was accepted for it."""

    engines: AcceptedEngines
    names: tuple[str, ...]
    request: EngineRequest
    speed: str


def _speed(best: FastEngine, place: Path) -> str:
    return f"{best.samples_per_second:.0f} images/s in {place / ENGINES}; "


def proof_images(sources: Sequence[Callable[[], Any]], least: int = _LEAST) -> ProofImages:
    """Read real images from the first place that has enough of them.

    Args:
        sources: Each opens a data module or `PredictionImages`.
        least: Images that are read, where there are as many.

    Raises:
        InputError: When no place has any image that can be read.
    """
    best: ProofImages | None = None
    faults = []
    for open_source in sources:
        try:
            found = read_proof_images(open_source(), least)
        except (InputError, FaultError) as error:  # such as data that has moved
            faults.append(str(error))
            continue
        if best is None or len(found.names) > len(best.names):
            best = found
        if len(best.names) >= least:
            break
    if best is None:
        why = f" ({'; '.join(faults)})" if faults else ""
        raise InputError(
            f"there are no images to prove an engine on{why}: say where real ones of the task are "
            "with data=image_folder data.root=FOLDER, or use engine=eager"
        )
    return best


def read_proof_images(source: "ImageDataModule | PredictionImages", least: int) -> ProofImages:
    """Read as many real images as prove an engine, or all there are.

    Raises:
        InputError: When images cannot be read.
        FaultError: When the disk is full or a process that decodes dies.
    """
    if not isinstance(source, PredictionImages):
        source.prepare_data()
        source.setup()
    return ProofImages(*real_images(source, least))
