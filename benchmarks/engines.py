"""How many times as fast as PyTorch's own forward pass each engine is that is proved.

The baseline is the network as a script would run it: channels last, autocast on a GPU, BatchNorms
as they were trained. Weights are random, with heads fitted to drawn documents, on which each engine
is proved. Engine and baseline take turns.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fold_run import RANDOM_WEIGHTS, FoldRun, make_fold_run
from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.data import PredictionImages, prediction_images, real_images
from gpuopt.data.drawing import DocumentSet
from gpuopt.engine import EngineRequest
from gpuopt.engine.backends import ENGINE_NAMES, file_backend, live_backend
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.choices import engine_precision
from gpuopt.engine.fallback import EngineSearch, ProofImages
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.race import Timing, race
from gpuopt.engine.trained import network_of
from gpuopt.engine.verification import Bounds
from gpuopt.model import ImageNetwork
from gpuopt.run import fold_folder
from gpuopt.session.forward_pass import autocast_of
from gpuopt.session.weights import load_described
from gpuopt.storage import default_cache_dir
from gpuopt.storage.checkpoint import read_checkpoint

__all__ = ["Plain", "engine_rows", "main"]

_BASELINE = "plain"
_ON_GPU = ("convnext_base:384", "resnet50:224")
_ON_CPU = ("tf_efficientnet_lite0:128",)  # the quickstart's
# Of the fastest engine on a GPU by network, and on a CPU by engine: times the baseline.
_GOALS = {"convnext_base": 1.4, "resnet50": 1.9, "onnx": 2.5, "aot_inductor": 1.5}
_PROOF_IMAGES = 500
_DOCUMENTS = DocumentSet(seed=0, train_count=640, test_count=16, size_px=512)
_QUICK = DocumentSet(seed=0, train_count=500, test_count=16, size_px=64)


class Plain:
    """A network as a script would run it, with what `race` asks of an engine.

    Args:
        model: Normalises and classifies; on the request's device.
        request: Precision, device and most images per call.
    """

    name = _BASELINE

    def __init__(self, model: ImageNetwork, request: EngineRequest) -> None:
        self.device = request.device
        self.precision = request.precision
        self.max_batch_size = request.max_batch_size
        self._model = model
        self._autocast = autocast_of(request.precision, request.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Classify uint8 images [n, 3, s, s]; returns float32 logits [n, classes]."""
        with self._autocast():
            logits: Tensor = self._model(images)
        return logits.float()


@dataclass(frozen=True)
class _Subject:
    """A network with what its engines are asked to be, and real images."""

    name: str
    plain: Plain
    search: EngineSearch
    request: EngineRequest
    images: Tensor


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.networks, arguments.engines = ["test_efficientnet:32"], ["onnx"]
        arguments.optimal, arguments.maximum, arguments.runs = 2, 4, 4
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    networks = arguments.networks or (_ON_GPU if on_gpu else _ON_CPU)
    rows: list[Row] = []
    best: list[Row] = []
    details: dict[str, Any] = {}
    path = arguments.output
    for name, _, size in (network.partition(":") for network in networks):
        print(f"{name} {size} px, {RANDOM_WEIGHTS}, {device}", flush=True)
        subject = _prepare(name, int(size), device, arguments)
        fastest: dict[str, Timing] = {}
        for engine in arguments.engines:
            timings, details[f"{name} {engine}"] = _measure(engine, subject, arguments)
            found = engine_rows(engine, name, int(size), timings, device.type)
            print(format_rows(found) or f"{engine}: {details[f'{name} {engine}']}", flush=True)
            rows += found
            for timing in timings:
                if timing.batch_size == arguments.optimal:
                    fastest[engine] = timing
            # The next engine may take minutes to compile: what is known by now is there.
            best = [_fastest_row(name, int(size), fastest)] if fastest and on_gpu else []
            path = save("engines", [*rows, *best], arguments, parser, details)
        rows += best
    print(format_rows(rows))
    return Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks engines", description=__doc__)
    parser.add_argument("--networks", nargs="+", metavar="MODEL:PX", help="timm models")
    parser.add_argument("--engines", nargs="+", default=list(ENGINE_NAMES), choices=ENGINE_NAMES)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "fp16", "bf16"))
    parser.add_argument("--optimal", type=int, default=32, help="images per call (default: 32)")
    parser.add_argument("--maximum", type=int, default=64, help="most images per call")
    parser.add_argument("--runs", type=int, default=30, help="calls that count, of each engine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_common_arguments(parser)
    return parser


def _prepare(name: str, size: int, device: torch.device, arguments: argparse.Namespace) -> _Subject:
    folder = default_cache_dir() / "benchmarks" / "engines"
    documents = _QUICK if arguments.quick else _DOCUMENTS
    run = FoldRun(name, size, 2, documents, folder / "cache")
    place = folder / f"{name}_{size}px"
    make_fold_run(place, run, device)
    path = fold_folder(place, 0) / "checkpoints" / "best.ckpt"
    model, description = load_described(read_checkpoint(path), str(path))
    opened = PredictionImages(
        prediction_images(run.cache_dir / run.documents.folder_name / "train"),
        size,
        arguments.optimal,
        cache_dir=run.cache_dir,
    )
    proof = ProofImages(*real_images(opened, _PROOF_IMAGES))
    precision = str(engine_precision(arguments.precision, device).value)
    classes = len(description.class_names)
    request = EngineRequest(size, classes, precision, arguments.optimal, arguments.maximum, device)
    network = network_of(model.to(device))
    proved = ProvedEngines(network, EngineCache(run.cache_dir), tell=print)
    bounds = Bounds(least_images=_PROOF_IMAGES)
    search = EngineSearch(request, network, proof, make=proved.make, tell=print, bounds=bounds)
    channels_last = ImageNetwork(name, classes, channels_last=True).eval()
    channels_last.load_state_dict(model.state_dict())
    return _Subject(name, Plain(channels_last.to(device), request), search, request, proof.images)


def _measure(
    name: str, subject: _Subject, arguments: argparse.Namespace
) -> tuple[tuple[Timing, ...], object]:
    """Make, prove and time an engine; returns its figures, or none and why there are none."""
    backend = file_backend(name) or live_backend(name)
    assert backend is not None  # every name has one
    if reason := backend.unavailable(subject.request.device):
        return (), reason
    start = time.perf_counter()
    found, attempts = subject.search.prove(name)
    made_s = time.perf_counter() - start
    if found is None:
        return (), str(attempts[-1])
    request = subject.request
    raced = race(
        {_BASELINE: subject.plain, name: found.engine},
        subject.images,
        batch_sizes=sorted({1, request.optimal_batch_size, request.max_batch_size}),
        warmup=3,
        runs=arguments.runs,
        baseline=_BASELINE,
        scopes=("engine",),
    )
    return raced.timings[name], {
        "made_and_proved_s": made_s,
        "attempts": [str(attempt) for attempt in attempts],
        "verification": found.verification.as_dict(),
        "timings": {key: [one.as_dict() for one in all_] for key, all_ in raced.timings.items()},
        "faults": {key: [str(one) for one in all_] for key, all_ in raced.faults.items()},
    }


def engine_rows(
    engine: str, model: str, size: int, timings: Sequence[Timing], device: str
) -> list[Row]:
    """Word the figures of one engine.

    Args:
        engine: Its name.
        model: timm name.
        size: In pixels.
        timings: Of each batch size.
        device: `cuda` or `cpu`; on a CPU an engine may have a goal of its own.
    """
    rows = []
    for timing in timings:
        setting = f"{model} {size} px, batch {timing.batch_size}"
        rows.append(
            Row(f"{engine}", setting, timing.samples_per_second, "images/s",
                timing.samples_per_second_low, timing.samples_per_second_high)
        )  # fmt: skip
        goal = _GOALS.get(engine) if device == "cpu" and timing.batch_size > 1 else None
        rows += _ratio_row(f"{engine} / channels last as trained", setting, timing, goal)
    return rows


def _fastest_row(model: str, size: int, timings: dict[str, Timing]) -> Row:
    name, timing = min(timings.items(), key=lambda item: _time_ratio(item[1]))
    setting = f"{model} {size} px, batch {timing.batch_size}: {name}"
    (row,) = _ratio_row("fastest proved engine / autocast", setting, timing, _GOALS.get(model))
    return row


def _time_ratio(timing: Timing) -> float:
    return float("inf") if timing.time_ratio is None else timing.time_ratio.ratio


def _ratio_row(measure: str, setting: str, timing: Timing, goal: float | None) -> list[Row]:
    if timing.time_ratio is None:
        return []
    time_ratio = timing.time_ratio
    low, high = 1 / time_ratio.high, 1 / time_ratio.low
    verdict = None
    if goal is not None:
        verdict = "met" if low >= goal else "missed" if high < goal else "not decided"
    words = None if goal is None else f">= {goal:g}"
    return [
        Row(measure, setting, 1 / time_ratio.ratio, "times", low, high, goal=words, verdict=verdict)
    ]


if __name__ == "__main__":
    main()
