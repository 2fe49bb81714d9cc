"""Benchmark engines on the weights and the images of a run, or one engine's file alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpuopt.choice import Choice
from gpuopt.data import ImageDataModule, PredictionImages, prediction_images, real_images
from gpuopt.engine.aot_inductor import AotInductor
from gpuopt.engine.benchmark import (
    MadeEngine,
    benchmark_batch_sizes,
    benchmark_engines,
    used_bytes,
)
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.compiled import Compiled
from gpuopt.engine.eager import Eager
from gpuopt.engine.fallback import ProofImages
from gpuopt.engine.files import EngineFile
from gpuopt.engine.onnx import Onnx
from gpuopt.engine.protocol import Backend, EngineRequest, LiveBackend, TrainedNetwork
from gpuopt.engine.race import race
from gpuopt.engine.record import (
    EngineRecord,
    Surroundings,
    fastest_verified,
    surroundings_of,
    write_record,
)
from gpuopt.engine.seal import Seal
from gpuopt.engine.tensorrt import TensorRT
from gpuopt.engine.verification import Bounds, read_report
from gpuopt.errors import FaultError, InputError
from gpuopt.hardware import Gpu, select_gpu
from gpuopt.model import Classifier
from gpuopt.session.device import cuda_properties
from gpuopt.session.prediction import ImageSource, PredictionSetup
from gpuopt.session.weights import ModelDescription

__all__ = ["BenchmarkSettings", "EngineAnswer", "Source", "benchmark_file", "benchmark_model"]

Source = ImageDataModule | ImageSource
"""Real images: a data set, or files without classes."""

_FILES: dict[str, Backend] = {b.name: b for b in (AotInductor(), Onnx(), TensorRT())}
_LIVE: dict[str, LiveBackend] = {b.name: b for b in (Eager(), Compiled())}


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
    model: Classifier,
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
    device, image_size = torch.device(setup.device), description.image_size
    network = TrainedNetwork(
        model.backbone,
        tuple(model.mean.flatten().tolist()),
        tuple(model.std.flatten().tolist()),
        model.name,
        model.uses_channels_last,
    )
    optimal, maximum, batches = _batches(settings, setup)
    precision, is_tf32 = _precision(settings.precision, device), settings.precision == "tf32"
    request = EngineRequest(
        image_size, model.num_classes, str(precision.value), optimal, maximum, device
    )
    proof = _read_images(open_source(image_size), image_size, settings)
    # As predict would set the device for it: the settings are part of an engine's key.
    setup = replace(setup, precision=settings.precision if is_tf32 else request.precision)
    with setup.applied():
        records = benchmark_engines(
            settings.engines,
            request,
            network,
            proof,
            make=_Maker(network, settings.cache_dir, tell),
            warmup=settings.warmup,
            runs=settings.runs,
            bounds=Bounds(least_images=settings.least_proof_images),
            tell=tell,
        )
        surroundings = surroundings_of(network, device, image_size)
    sizes = benchmark_batch_sizes(optimal, maximum)
    answer = EngineAnswer(
        model.name,
        setup.gpu.name,
        image_size,
        len(proof.images),
        sizes,
        tuple(records),
        (setup.choices[0], precision, *batches),
    )
    if run is None:
        return answer
    return _kept(answer, run, surroundings, settings, optimal, maximum)


def _kept(
    answer: EngineAnswer,
    run: Path,
    surroundings: Surroundings,
    settings: BenchmarkSettings,
    optimal: int,
    maximum: int,
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
            optimal_batch_size=optimal,
            max_batch_size=maximum,
            extra=extra,
        )
    except OSError as error:
        raise FaultError(
            f"cannot write into {run} ({error.strerror}): free space, or make it writable"
        ) from error
    best = fastest_verified(run, surroundings)
    reason = "no engine was proved, so predict engine=auto takes it"
    if best is not None:
        reason = f"{best.samples_per_second:.0f} images/s end to end at a batch of {optimal}"
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
    device = torch.device("cpu" if properties is None else "cuda")
    request = _request_of(file, device)
    setup = PredictionSetup(device.type, gpu, request.precision, 1, 0, (gpu_choice,))
    backend = _FILES[str(file.content()["key"]["engine"])]
    if reason := backend.unavailable(request.device):
        raise InputError(reason)
    size = request.image_size
    images = _read_images(open_source(size), size, settings)
    sizes = benchmark_batch_sizes(request.optimal_batch_size, request.max_batch_size)
    with setup.applied():
        before = used_bytes(request.device, settle=True)
        engine = backend.load(request, path)
        timings = race(
            {backend.name: engine},
            images.images,
            batch_sizes=sizes,
            warmup=settings.warmup,
            runs=settings.runs,
            baseline=backend.name,
        )
        after = used_bytes(request.device)
    report = read_report(path)
    record = EngineRecord(
        backend.name,
        request.precision,
        request.fp32_layers,
        None,
        None if before is None or after is None else max(0, after - before),
        report is not None and report.accepted,
        "there is no report of a proof beside it" if report is None else str(report),
        report,
        timings[backend.name],
    )
    return EngineAnswer(
        path.name,
        setup.gpu.name,
        request.image_size,
        len(images.images),
        sizes,
        (record,),
        setup.choices,
    )


def _read_images(source: Source, image_size: int, settings: BenchmarkSettings) -> ProofImages:
    """Read as many real images as prove an engine, or all there are."""
    if isinstance(source, ImageDataModule):
        source.prepare_data()
        source.setup()
        return ProofImages(*real_images(source, settings.least_proof_images))
    found = PredictionImages(
        prediction_images(source.place, source.image_dir, source.id_column),
        image_size,
        1,
        cache_dir=settings.cache_dir,
        **source.options,
    )
    return ProofImages(*real_images(found, settings.least_proof_images))


class _Maker:
    """Opens engines from the user's cache, and times those that had to be built."""

    def __init__(
        self, network: TrainedNetwork, cache_dir: str | None, tell: Callable[[str], None]
    ) -> None:
        self._network = network
        self._tell = tell
        self._built = False
        self._cache = EngineCache(cache_dir, tell=self._note)

    def __call__(self, name: str, request: EngineRequest) -> MadeEngine:
        start, self._built = time.perf_counter(), name in _LIVE
        if name in _LIVE:
            engine = _LIVE[name].wrap(request, self._network)
        else:
            engine = self._cache.open(_FILES[name], request, self._network)
        return MadeEngine(engine, time.perf_counter() - start if self._built else None)

    def _note(self, line: str) -> None:
        self._built = True
        self._tell(line)


def _batches(
    settings: BenchmarkSettings, setup: PredictionSetup
) -> tuple[int, int, tuple[Choice, ...]]:
    optimal, maximum = settings.optimal_batch_size, settings.max_batch_size
    choices = []
    if optimal == "auto":
        optimal = setup.batch_size if maximum == "auto" else min(setup.batch_size, int(maximum))
        choices.append(Choice("optimal_batch_size", optimal, "table", "as predict would take"))
    if maximum == "auto":
        maximum = 2 * int(optimal)
        choices.append(Choice("max_batch_size", maximum, "table", "twice the optimal"))
    if int(optimal) > int(maximum):
        raise InputError(f"optimal_batch_size={optimal} is above max_batch_size={maximum}")
    return int(optimal), int(maximum), tuple(choices)


def _precision(asked: str, device: torch.device) -> Choice:
    if asked == "tf32":
        return Choice("precision", "fp32", "given", "tf32 is fp32 for an engine")
    if asked != "auto":
        return Choice("precision", asked, "given", "asked for")
    if device.type == "cuda":
        reason = "eight times as fine as bf16; an overflow is found before it is used"
        return Choice("precision", "fp16", "table", reason)
    return Choice("precision", "fp32", "table", "half precision is slower on a CPU")


def _request_of(file: EngineFile, device: torch.device) -> EngineRequest:
    asked = {**file.content()["request"], "device": device}
    request = EngineRequest(**{**asked, "fp32_layers": tuple(asked["fp32_layers"])})
    built_for = torch.device(file.content()["request"]["device"]).type
    if built_for != device.type:
        raise InputError(
            f"{file.path} is an engine for {built_for}, and this is {device.type}: export it here"
        )
    return request
