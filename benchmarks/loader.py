"""Images per second from JPEG files to device batches, against torchvision's ImageFolder."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import functional, v2
from torchvision.transforms.v2 import functional as functional_v2

from benchmarks.jpeg_files import FILE_SETS, make_files
from benchmarks.record import Row, add_common_arguments, format_rows, save
from benchmarks.step_setting import synchronizer
from gpuopt.data import Augmentation, Batch, ImageFolder
from gpuopt.hardware import available_cpus, keep_freed_memory
from gpuopt.measure.pairs import abba_orders, paired_ratio, verdict
from gpuopt.model import normalise

__all__ = ["GPUOPT", "Letterbox", "loader_rows", "main", "make_passes", "time_passes"]

GPUOPT = "gpuopt"
_GOAL = ">= 1.5"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FLIP_ONLY: dict[str, Any] = {
    "rotation90": False,
    "rotation_degrees": 0.0,
    "scale_ratio": 0.0,
    "shift_ratio": 0.0,
    "gamma": 0.0,
    "brightness": 0.0,
    "noise": 0.0,
}


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.images, arguments.rounds, arguments.batch_size = 24, 2, 8
        arguments.image_sizes, arguments.workers = [32], [0]
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.device == "cpu":
        keep_freed_memory()  # as the commands do; here it serves the peers, too
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for name in FILE_SETS:
        with tempfile.TemporaryDirectory() as folder:
            root = make_files(name, Path(folder), arguments.images)
            for image_size in arguments.image_sizes:
                for workers in arguments.workers:
                    setting = f"{name}, {image_size} px, {workers} workers, {arguments.device}"
                    pass_s = _measure(root, image_size, workers, arguments)
                    details[setting] = pass_s
                    rows += loader_rows(pass_s, arguments.images, setting)
                    print(format_rows(rows[-5:]), flush=True)
    return save("loader", rows, arguments, parser, {"pass_s": details})


def time_passes(
    passes: Mapping[str, Callable[[int], int]],
    rounds: int,
    images: int,
    synchronize: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time whole passes over the files, in alternating order, after one untimed pass each.

    Args:
        passes: Loads everything once, given the number of the pass; returns the images loaded.
        rounds: Timed passes of each.
        images: How many images a pass must load.
        synchronize: Waits for the device.
        clock: Monotonic time in seconds.

    Raises:
        RuntimeError: When a pass loads another number of images.
    """
    pass_s: dict[str, list[float]] = {name: [] for name in passes}
    for load in passes.values():
        load(0)
    for number, order in enumerate(abba_orders(tuple(passes), rounds), start=1):
        for name in order:
            synchronize()
            began_s = clock()
            loaded = passes[name](number)
            synchronize()
            pass_s[name].append(clock() - began_s)
            if loaded != images:
                raise RuntimeError(f"{name} loaded {loaded} of {images} images")
    return pass_s


def loader_rows(pass_s: Mapping[str, Sequence[float]], images: int, setting: str) -> list[Row]:
    """Turn pass times into images per second of each loader and gpuopt's ratio to the others."""
    rows = [
        Row(f"loading, {name}", setting, images / statistics.median(values), "images/s")
        for name, values in pass_s.items()
    ]
    for peer in (name for name in pass_s if name != GPUOPT):
        speed = paired_ratio(pass_s[peer], pass_s[GPUOPT])  # time of the peer: speed of gpuopt
        outcome = verdict(speed.low, speed.high, _GOAL, speed.pairs)
        rows.append(
            Row(
                f"loading, gpuopt / {peer}",
                setting,
                speed.ratio,
                "ratio",
                speed.low,
                speed.high,
                _GOAL,
                outcome,
            )
        )
    return rows


def make_passes(
    root: Path, cache_dir: Path, *, image_size: int, batch_size: int, workers: int, device: str
) -> dict[str, Callable[[int], int]]:
    """Build the loaders over `root/train`.

    Each fits the image into a white square, mirrors every second one, normalises and delivers
    float32 batches on the device. Nothing decoded is kept.

    Args:
        root: Holds `train` and `val` with class folders.
        cache_dir: Where gpuopt may note which files it has checked.
        image_size: Side of the square in pixels.
        batch_size: Images per batch.
        workers: Loader processes of each.
        device: Where the batches go.
    """
    data = ImageFolder(
        root=root,
        image_size=image_size,
        micro_batch_size=batch_size,
        global_batch_size=batch_size,
        num_workers=workers,
        pin_memory=device == "cuda",
        augmentation=Augmentation(**_FLIP_ONLY),
        cache="off",
        cache_dir=cache_dir,
    )
    shared: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "device": device}
    return {
        GPUOPT: partial(_load_with_gpuopt, data, data.train_dataloader(), torch.device(device)),
        "ImageFolder": _folder_pass(root, _transforms_v1(image_size), **shared),
        "ImageFolder, v2 transforms": _folder_pass(root, _transforms_v2(image_size), **shared),
    }


class Letterbox:
    """Fits a picture into a white square, as gpuopt's decoder does.

    Args:
        image_size: Side of the square in pixels.
    """

    def __init__(self, image_size: int) -> None:
        self._image_size = image_size

    def __call__(self, image: Any) -> Any:
        """Resize and pad a PIL image, or a tensor [3, h, w] by the faster second version."""
        library = functional_v2 if isinstance(image, Tensor) else functional
        height, width = library.get_size(image) if library is functional_v2 else image.size[::-1]
        scale = self._image_size / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        left, top = (self._image_size - width) // 2, (self._image_size - height) // 2
        right, bottom = self._image_size - width - left, self._image_size - height - top
        small = library.resize(image, [height, width], antialias=True)
        return library.pad(small, [left, top, right, bottom], fill=255)


def _measure(
    root: Path, image_size: int, workers: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    threads = torch.get_num_threads()
    # Threads that wait for this process' next operation spin, on a core that a worker could use.
    torch.set_num_threads(max(1, min(threads, available_cpus() - workers)))
    try:
        with tempfile.TemporaryDirectory() as cache_dir:
            passes = make_passes(
                root,
                Path(cache_dir),
                image_size=image_size,
                batch_size=arguments.batch_size,
                workers=workers,
                device=arguments.device,
            )
            return time_passes(
                passes, arguments.rounds, arguments.images, synchronizer(arguments.device)
            )
    finally:
        torch.set_num_threads(threads)


def _load_with_gpuopt(data: ImageFolder, loader: Any, device: torch.device, number: int) -> int:
    mean = torch.tensor(_MEAN, device=device).mul(255).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=device).mul(255).view(1, 3, 1, 1)
    loader.sampler.set_epoch(number)
    loaded = 0
    for batch in loader:
        moved = Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
        images = normalise(data.augment(moved).images, mean, std)
        loaded += len(images)
    return loaded


def _folder_pass(
    root: Path, transform: Any, *, batch_size: int, workers: int, device: str
) -> Callable[[int], int]:
    loader: DataLoader[Any] = DataLoader(
        datasets.ImageFolder(str(root / "train"), transform=transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device == "cuda",
        persistent_workers=workers > 0,
    )

    def load(number: int) -> int:
        loaded = 0
        for images, targets in loader:
            images = images.to(device, non_blocking=True)
            targets.to(device, non_blocking=True)
            loaded += len(images)
        return loaded

    return load


def _transforms_v1(image_size: int) -> Any:
    steps = [
        Letterbox(image_size),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(_MEAN, _STD),
    ]
    return transforms.Compose(steps)


def _transforms_v2(image_size: int) -> Any:
    steps = [
        v2.ToImage(),
        Letterbox(image_size),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(_MEAN, _STD),
    ]
    return v2.Compose(steps)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks loader", description=__doc__)
    parser.add_argument("--images", type=int, default=384, help="files of each kind")
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8, help="timed passes of each loader")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add_common_arguments(parser)
    return parser
