"""Benchmark engines on the weights and the images of a run, or one engine's file alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpuopt.choice import Choice
from gpuopt.data import ImageDataModule, PredictionImages
from gpuopt.engine.backends import file_backend, live_backend
from gpuopt.engine.benchmark import (
    MadeEngine,
    benchmark_batch_sizes,
    benchmark_engines,
    grown_bytes,
    used_bytes,
)
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import weights_digest
from gpuopt.engine.choices import engine_batches, engine_precision
from gpuopt.engine.fallback import ProofImages, VerifiedEngine
from gpuopt.engine.files import EngineFile
from gpuopt.engine.protocol import Backend, Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.race import race
from gpuopt.engine.record import (
    EngineRecord,
    Surroundings,
    fastest_verified,
    surroundings_of,
    write_record,
)
from gpuopt.engine.seal import Seal
from gpuopt.engine.trained import network_of
from gpuopt.engine.verification import Bounds, Verification, provider_of, read_report
from gpuopt.errors import FaultError, InputError
from gpuopt.hardware import Gpu, select_gpu
from gpuopt.model import ImageNetwork
from gpuopt.session.device import cuda_properties
from gpuopt.session.engines import read_proof_images
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.weights import ModelDescription

__all__ = ["BenchmarkSettings", "EngineAnswer", "Source", "benchmark_file", "benchmark_model"]

Source = ImageDataModule | PredictionImages
"""Real images: a data set, or images without classes."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """How engines are compared.

    Attributes:
        engines: Backends, beside eager.
        precision: `auto`, or what is asked for.
        optimal_batch_size: Images per call that engines are tuned for.
        max_batch_size: Most images per call.
        warmup: Calls before the first that counts.
        runs: Calls that count.
        least_proof_images: Images that prove an engine; as many are read.
        cache_dir: Folder of caches; None means the user's.
    """

    engines: Sequence[str]
    precision: str
    optimal_batch_size: int | str
    max_batch_size: int | str
    warmup: int
    runs: int
    least_proof_images: int
    cache_dir: str | None


@dataclass(frozen=True)
class EngineAnswer:
    """What was found.

    Attributes:
        model: Name of the network, or of the engine's file.
        device: Where engines ran.
        image_size: In pixels.
        images: How many images engines were compared on.
        batch_sizes: That were timed.
        records: One per engine.
        choices: What was left to gpuopt, and the fastest engine.
        written: The record in the run.
    """

    model: str
    device: str
    image_size: int
    images: int
    batch_sizes: tuple[int, ...]
    records: tuple[EngineRecord, ...]
    choices: tuple[Choice, ...]
    written: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **asdict(self),
            "records": [record.as_dict() for record in self.records],
            "written": None if self.written is None else str(self.written),
        }


def benchmark_model(
    model: ImageNetwork,
    description: ModelDescription,
    open_source: Callable[[int], Source],
    *,
    preset: Gpu,
    catalogue: Mapping[str, Gpu],
    settings: BenchmarkSettings,
    run: Path | None,
    tell: Callable[[str], None],
) -> EngineAnswer:
    """Build, prove and time engines of a trained model.

    Args:
        model: With its weights, in evaluation mode.
        description: What it was trained on.
        open_source: Opens real images at a size.
        preset: The `gpu=` option.
        catalogue: Cards by name.
        settings: What is compared, and how.
        run: The folder that keeps the record; None keeps none.
        tell: Takes one line for each step.

    Raises:
        InputError: When the device cannot run the model, or images cannot be read.
        FaultError: When memory runs out, or the run cannot be written.
    """
    setup = PredictionSetup.choose(
        description,
        preset=preset,
        catalogue=catalogue,
        precision=settings.precision,
        batch_size=settings.optimal_batch_size,
        num_workers=0,
        cache_dir=settings.cache_dir,
    )
    image_size, device = description.image_size, _device(setup.device)
    network = network_of(model)
    request, choices = _request(model, image_size, device, settings, setup.batch_size)
    proof = read_proof_images(open_source(image_size), settings.least_proof_images)
    # As predict would set the device for it: the settings are part of an engine's key.
    is_tf32 = settings.precision == "tf32"
    setup = replace(setup, precision="tf32" if is_tf32 else request.precision)
    bounds = Bounds(least_images=settings.least_proof_images)
    maker = _Maker(network, settings.cache_dir, bounds, tell)
    with setup.applied():
        records = benchmark_engines(
            settings.engines,
            request,
            network,
            proof,
            make=maker,
            keep=maker.keep,
            warmup=settings.warmup,
            runs=settings.runs,
            bounds=bounds,
            tell=tell,
        )
        surroundings = surroundings_of(weights_digest(network), device, image_size)
    sizes = benchmark_batch_sizes(request.optimal_batch_size, request.max_batch_size)
    answer = EngineAnswer(
        model.name,
        setup.gpu.name,
        image_size,
        len(proof.images),
        sizes,
        tuple(records),
        (setup.choices[0], *choices),
    )
    if run is None:
        return answer
    return _kept(answer, run, surroundings, settings, request)


def _request(
    model: ImageNetwork,
    image_size: int,
    device: torch.device,
    settings: BenchmarkSettings,
    batch_size: int,
) -> tuple[EngineRequest, tuple[Choice, ...]]:
    """Settle what is asked of the engines; `batch_size` is what predictions would take."""
    optimal, maximum = engine_batches(
        settings.optimal_batch_size, settings.max_batch_size, batch_size
    )
    precision = engine_precision(settings.precision, device)
    request = EngineRequest(
        image_size,
        model.num_classes,
        str(precision.value),
        int(optimal.value),
        int(maximum.value),
        device,
    )
    return request, (precision, optimal, maximum)


def _kept(
    answer: EngineAnswer,
    run: Path,
    surroundings: Surroundings,
    settings: BenchmarkSettings,
    request: EngineRequest,
) -> EngineAnswer:
    """Write the record into the run, and read from it what predict will use."""
    extra = {
        "model": answer.model,
        "images": answer.images,
        "warmup": settings.warmup,
        "runs": settings.runs,
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        written = write_record(
            run,
            surroundings,
            answer.records,
            optimal_batch_size=request.optimal_batch_size,
            max_batch_size=request.max_batch_size,
            extra=extra,
        )
    except OSError as error:
        raise FaultError(
            f"cannot write into {run} ({error.strerror}): free space, or make it writable"
        ) from error
    best = fastest_verified(run, surroundings)
    reason = "no engine was proved, so predict engine=auto takes it"
    if best is not None:
        batch = best.optimal_batch_size
        reason = f"{best.samples_per_second:.0f} images/s end to end at a batch of {batch}"
    chosen = Choice("engine", "eager" if best is None else best.name, "measured", reason)
    return replace(answer, choices=(*answer.choices, chosen), written=written)


def benchmark_file(
    path: Path,
    open_source: Callable[[int], Source],
    *,
    preset: Gpu,
    catalogue: Mapping[str, Gpu],
    settings: BenchmarkSettings,
) -> EngineAnswer:
    """Time the engine in a file; whether it is right says the report beside it.

    Args:
        path: Of `gpuopt export`.
        open_source: Opens real images at a size.
        preset: The `gpu=` option.
        catalogue: Cards by name.
        settings: Warm-up and runs.

    Raises:
        InputError: When the file is refused or is for another device.
        FaultError: When it cannot be loaded.
    """
    file = EngineFile(path, Seal())
    file.require()
    properties = cuda_properties(preset, 1)
    gpu, gpu_choice = select_gpu(preset, properties, catalogue)
    device = _device("cpu" if properties is None else "cuda")
    request = _request_of(file, device)
    setup = PredictionSetup(device.type, gpu, request.precision, 1, 0, (gpu_choice,))
    backend = file_backend(file.engine)
    if backend is None:
        raise InputError(f"{path} is no engine of gpuopt: engine={file.engine} keeps no file")
    if reason := backend.unavailable(request.device):
        raise InputError(reason)
    images = read_proof_images(open_source(request.image_size), settings.least_proof_images)
    with setup.applied():
        record = _time_alone(backend, request, path, images, settings)
    return EngineAnswer(
        path.name,
        setup.gpu.name,
        request.image_size,
        len(images.images),
        benchmark_batch_sizes(request.optimal_batch_size, request.max_batch_size),
        (record,),
        setup.choices,
    )


def _time_alone(
    backend: Backend,
    request: EngineRequest,
    path: Path,
    images: ProofImages,
    settings: BenchmarkSettings,
) -> EngineRecord:
    before = used_bytes(request.device, settle=True)
    engine = backend.load(request, path)
    timed = race(
        {backend.name: engine},
        images.images,
        batch_sizes=benchmark_batch_sizes(request.optimal_batch_size, request.max_batch_size),
        warmup=settings.warmup,
        runs=settings.runs,
        baseline=backend.name,
    )
    memory_bytes = grown_bytes(before, used_bytes(request.device))
    report = read_report(path)
    return EngineRecord(
        backend.name,
        request.precision,
        request.fp32_layers,
        build_s=None,
        memory_bytes=memory_bytes,
        is_verified=report is not None and report.accepted and report.is_of(engine),
        reason=_proof_in_words(report, engine),
        verification=report,
        timings=timed.timings[backend.name],
        faults=tuple(map(str, timed.faults.get(backend.name, ()))),
    )


def _proof_in_words(report: Verification | None, engine: Engine) -> str:
    if report is None:
        return "there is no report of a proof beside it"
    if not report.is_of(engine):
        provider = provider_of(engine)
        return f"it was proved with provider={report.provider}, and this is {provider}"
    return str(report)


class _Maker:
    """Opens engines from the user's cache, and times those that had to be built."""

    def __init__(
        self,
        network: TrainedNetwork,
        cache_dir: str | None,
        bounds: Bounds,
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self._built = False
        cache = EngineCache(cache_dir, tell=self._note)
        self._engines = ProvedEngines(network, cache, tell=tell, bounds=bounds)

    def __call__(self, name: str, request: EngineRequest) -> MadeEngine:
        start, self._built = time.perf_counter(), live_backend(name) is not None
        engine = self._engines.make(name, request)
        return MadeEngine(engine, time.perf_counter() - start if self._built else None)

    def keep(self, found: VerifiedEngine) -> None:
        """Remember the proof, so that a prediction need not repeat it."""
        self._engines.remember((found.engine.name,), found.request, found)

    def _note(self, line: str) -> None:
        self._built = True
        self._tell(line)


def _device(kind: str) -> torch.device:
    """Name a device with its number, as modules on it do: proofs are remembered by it."""
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def _request_of(file: EngineFile, device: torch.device) -> EngineRequest:
    built_for = torch.device(str(file.content()["request"]["device"])).type
    if built_for != device.type:
        raise InputError(
            f"{file.path} is an engine for {built_for}, and this is {device.type}: export it here"
        )
    return file.request(device)
