"""What users would search a batch size with otherwise, each on the same network and steps.

Every peer trains the same classifier for three optimizer steps a trial. The allocator counts its
own errors, so that no peer is asked how often it failed.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor

from benchmarks.memory_cells import (
    Cell,
    build,
    capped,
    images_of,
    quiet,
    release,
    train_cell,
    trainer_of,
)
from benchmarks.step_setting import MemoryImages
from gpuopt.memory.device_errors import is_out_of_memory

__all__ = ["Found", "Peer", "counted_errors", "peers", "timed", "ultralytics_rule"]

_STEPS = 3
_START = 2  # Lightning's own default
_LARGEST = 4096
_ACCELERATE_START = 128  # accelerate's own default
_GIB = 2**30


@dataclass(frozen=True)
class Found:
    """What one search ended with.

    Attributes:
        batch_size: Its answer; 0 when it had none.
        probes: How many sizes it ran, one that failed included.
        errors: How often the allocator was out of memory meanwhile.
        duration_s: From its start to its end, the network built already.
        note: What it said, when it failed.
    """

    batch_size: int
    probes: int
    errors: int
    duration_s: float
    note: str = ""


Peer = Callable[[Cell, int | None], Found]
"""Searches for the largest batch of a network on an emulated card of so many MiB."""


def counted_errors() -> int:
    """Return how often torch's allocator has failed in this process."""
    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.memory_stats().get("num_ooms", 0))


def timed(search: Callable[[], tuple[int, int]], memory_mib: int | None) -> Found:
    """Run one search on an emulated card.

    Args:
        search: Returns its answer and how many sizes it ran.
        memory_mib: Of the card; None for no cap.
    """
    errors, note = counted_errors(), ""
    size, probes = 0, 0
    with capped(memory_mib), quiet():
        began_s = time.perf_counter()
        try:
            size, probes = search()
        except Exception as error:
            note = f"{type(error).__name__}: {error}"[:200]
        duration_s = time.perf_counter() - began_s
    release()
    return Found(size, probes, counted_errors() - errors, duration_s, note)


def peers() -> Mapping[str, Peer]:
    """Return the peers that are installed, by name."""
    found: dict[str, Peer] = {
        "Lightning power": lambda cell, mib: _lightning(cell, mib, "power"),
        "Lightning binsearch": lambda cell, mib: _lightning(cell, mib, "binsearch"),
        "Ultralytics' rule": _ultralytics,
    }
    if find_spec("accelerate"):
        found["accelerate"] = _accelerate
    return found


class _PeerData(L.LightningDataModule):
    """The same images as everybody's, with the attribute that Lightning's search sets."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.batch_size = _START
        self.sizes: list[int] = []
        self._cell = cell
        self._images: MemoryImages | None = None

    def train_dataloader(self) -> Any:
        """Make as many batches as a trial takes."""
        self.sizes.append(self.batch_size)
        self._images = images_of(self._cell, self.batch_size, _STEPS)
        self._images.setup("fit")
        return self._images.train_dataloader()

    def val_dataloader(self) -> Any:
        """Make the one batch to validate on; a trial does not reach it."""
        images = images_of(self._cell, self.batch_size, _STEPS)
        images.setup("fit")
        return images.val_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment as everybody does."""
        return batch if self._images is None else self._images.augment(batch)


def _lightning(cell: Cell, memory_mib: int | None, mode: str) -> Found:
    model, data = build(cell, 10_000), _PeerData(cell)

    def search() -> tuple[int, int]:
        trainer = trainer_of(cell)
        size = Tuner(trainer).scale_batch_size(
            model, datamodule=data, mode=mode, steps_per_trial=_STEPS, init_val=_START
        )
        return int(size or 0), len(set(data.sizes))

    return timed(search, memory_mib)


def _accelerate(cell: Cell, memory_mib: int | None) -> Found:
    from accelerate.utils import find_executable_batch_size

    model = build(cell, 10_000)
    sizes: list[int] = []

    def train(batch_size: int) -> int:
        sizes.append(batch_size)
        train_cell(cell, batch_size, _STEPS, model=model)
        return batch_size

    def search() -> tuple[int, int]:
        searching = find_executable_batch_size(train, starting_batch_size=_ACCELERATE_START)
        return int(searching()), len(sizes)

    return timed(search, memory_mib)


def _ultralytics(cell: Cell, memory_mib: int | None) -> Found:
    """Forward and backward passes at a few sizes, a line through their peaks, 60 % of the free."""
    network = build(cell, 10).backbone.to(cell.device)
    total_gib = (memory_mib or _total_mib()) / 1024
    sizes = [1, 2, 4, 8, 16] + ([32, 64] if total_gib >= 16 else [])
    tried: list[int] = []

    def search() -> tuple[int, int]:
        points = []
        for size in sizes:
            tried.append(size)
            peak = _pass_peak_gib(network, cell, size)
            if peak is not None:
                points.append((size, peak))
        size = ultralytics_rule(points, sizes[len(points) :], total_gib)
        return size, len(tried)

    return timed(search, memory_mib)


def ultralytics_rule(points: list[tuple[int, float]], failed: list[int], total_gib: float) -> int:
    """Choose a batch size as Ultralytics' `autobatch` is documented to: 60 % of what is free.

    Args:
        points: Sizes that ran with the memory that was reserved, in GiB.
        failed: Sizes that did not run.
        total_gib: Memory of the card.

    Returns:
        16, its fallback, when fewer than two sizes ran or the line gives nothing of use.
    """
    if len(points) < 2:
        return 16
    sizes, used_gib = zip(*points, strict=True)
    slope, start = np.polyfit(sizes, used_gib, deg=1)
    size = int((round(total_gib * 0.6) - start) / slope) if slope > 0 else 0
    if failed and size >= failed[0]:
        size = points[-1][0]
    return size if 1 <= size <= 1024 else 16


def _pass_peak_gib(network: torch.nn.Module, cell: Cell, size: int) -> float | None:
    images = torch.rand(size, 3, cell.image_size, cell.image_size, device=cell.device)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    failed = False
    try:
        release()
        for _ in range(_STEPS):
            with torch.autocast(cell.device, kinds.get(cell.precision), cell.precision in kinds):
                loss: Tensor = network(images).sum()
            torch.autograd.backward(loss)
            network.zero_grad()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    if failed:
        release()
        return None
    return torch.cuda.memory_reserved() / _GIB if torch.cuda.is_available() else float(size)


def _total_mib() -> int:
    if not torch.cuda.is_available():
        return 8192
    return int(torch.cuda.get_device_properties(0).total_memory // 2**20)
