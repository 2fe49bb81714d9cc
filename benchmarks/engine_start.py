"""How long an engine takes to be built, and to be there again in a new process."""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.engine import EngineRequest, TrainedNetwork
from gpuopt.engine.backends import FILE_ENGINES, file_backend
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.choices import engine_precision
from gpuopt.engine.served_model import example_images
from gpuopt.errors import GpuoptError

__all__ = ["Opened", "main", "open_engine"]

_GOAL_S = 3.0


@dataclass(frozen=True)
class Opened:
    """One start.

    Attributes:
        open_s: Until the engine can be called, weights hashed and file checked; imports excluded.
        first_batch_s: From then until the logits of the first full batch are on the host.
        lines: What the cache said; empty when nothing was built.
    """

    open_s: float
    first_batch_s: float
    lines: tuple[str, ...]


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks engine_start", description=__doc__)
    parser.add_argument("--network", default="convnext_base", help="timm model, random weights")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--engines", nargs="+", default=list(FILE_ENGINES), choices=FILE_ENGINES)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "fp16", "bf16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.network, arguments.image_size, arguments.engines = "test_resnet", 32, ["onnx"]
    rows: list[Row] = []
    details: dict[str, object] = {}
    path = arguments.output
    for engine in arguments.engines:
        found, details[engine] = _measure(engine, arguments)
        rows += found
        print(format_rows(found) or f"{engine}: {details[engine]}", flush=True)
        path = save("engine_start", rows, arguments, parser, details)
    return Path(path)


def _measure(engine: str, arguments: argparse.Namespace) -> tuple[list[Row], object]:
    """Start an engine three times; returns its figures, or no figures and why there are none."""
    backend = file_backend(engine)
    assert backend is not None  # the choices are files
    if reason := backend.unavailable(torch.device(arguments.device)):
        return [], reason
    print(f"{engine}: built, and started again twice", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            starts = [_in_new_process(engine, arguments, folder) for _ in range(3)]
        except GpuoptError as error:  # such as a provider that lacks the card's library
            return [], str(error)
    return _rows(engine, arguments, starts), [vars(start) for start in starts]


def open_engine(engine: str, arguments: argparse.Namespace, folder: str) -> Opened:
    """Open an engine from a cache folder and call it once."""
    torch.manual_seed(0)  # the same weights in every process
    backbone = timm.create_model(arguments.network, num_classes=17).eval()
    network = TrainedNetwork(backbone, (127.5,) * 3, (127.5,) * 3, arguments.network)
    device = torch.device(arguments.device)
    size, batch = arguments.image_size, arguments.batch_size
    precision = str(engine_precision(arguments.precision, device).value)
    request = EngineRequest(size, 17, precision, batch, batch, device)
    backend = file_backend(engine)
    assert backend is not None  # the choices are files
    images = example_images(request, batch)
    lines: list[str] = []
    start = time.perf_counter()
    opened = EngineCache(folder, tell=lines.append).open(backend, request, network)
    there = time.perf_counter()
    opened(images).cpu()
    return Opened(there - start, time.perf_counter() - there, tuple(lines))


def _in_new_process(engine: str, arguments: argparse.Namespace, folder: str) -> Opened:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(open_engine, engine, arguments, folder).result()


def _rows(engine: str, arguments: argparse.Namespace, starts: Sequence[Opened]) -> list[Row]:
    setting = f"{arguments.network}, {arguments.image_size} px, batch {arguments.batch_size}"
    again = max(start.open_s for start in starts[1:])
    if any(start.lines for start in starts[1:]):
        raise RuntimeError(f"{engine} was built again: {starts[1].lines}")
    outcome = "met" if again <= _GOAL_S else "missed"
    return [
        Row(f"{engine}, built", setting, starts[0].open_s, "s"),
        Row(
            f"{engine}, second start, slowest of 2",
            setting,
            again,
            "s",
            goal=f"<= {_GOAL_S:g}",
            verdict=outcome,
        ),
        Row(f"{engine}, first batch after it", setting, starts[-1].first_batch_s, "s"),
    ]


if __name__ == "__main__":
    main()
