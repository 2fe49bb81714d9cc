"""Planted bottlenecks and leaks, of random severity and in combination: how many are told right."""

import argparse
import copy
import itertools
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import timm
import torch
from lightning.pytorch.utilities.exceptions import _TunerExitException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.callbacks import BottleneckProbe, LeakWatch
from gpuopt.diagnosis.bottleneck import find_bottlenecks
from gpuopt.measure.pairs import verdict

__all__ = ["Plants", "main"]

_KINDS = ("data", "synchronisation", "optimizer", "batch")
_TINY_BATCH = 2
# A plant that brings this much when it is removed has to be found; others may be.
_COSTLY = {"data": 0.1, "synchronisation": 0.1, "optimizer": 0.1, "batch": 0.3}
# What nobody planted may be found where removing it really brings that much.
_REAL = {"data": 0.025, "batch": 0.1}
_WARM_STEPS, _LEAST_STEPS = 6, 5
_LEAKS = ("none", "tensors", "host")
# In a watch of seconds; the C library's heap alone comes and goes by some 20 MiB.
_TOLERATED_MIB = 40
# A share of all cases cannot be above 1: of its interval the lower end is Wilson's.
_Z = 1.96


@dataclass(frozen=True)
class Plants:
    """What is wrong with a training.

    Attributes:
        kinds: Of bottlenecks; none is the control.
        batch_size: Samples of a step.
        load_s: Seconds that each batch takes more to load.
        after_wait_s: Seconds of the host's work in each step, after its wait for the device.
        parameters: Small ones, which cost an optimizer that is not fused a kernel or ten each.
        from_memory: Whether all batches are one that is there already.
    """

    kinds: tuple[str, ...]
    batch_size: int
    load_s: float = 0.0
    after_wait_s: float = 0.0
    parameters: int = 0
    from_memory: bool = False

    def without(self, kind: str) -> "Plants":
        """Return the same training without one bottleneck, planted or not.

        Without the loader batches come from memory; the small batch has twice the samples.
        """
        plants = replace(self, kinds=tuple(other for other in self.kinds if other != kind))
        if kind == "data":
            return replace(plants, load_s=0.0, from_memory=True)
        if kind == "batch":  # each sample takes as long to load
            return replace(plants, batch_size=2 * self.batch_size, load_s=2 * self.load_s)
        return plants


class _Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, image_size: int, load_s: float, batch_size: int) -> None:
        self._image = torch.rand(3, image_size, image_size)
        self._load_s = load_s / batch_size

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self._load_s:
            time.sleep(self._load_s)
        return self._image, row % 10


class _Module(L.LightningModule):
    def __init__(self, network: nn.Module, plants: Plants, *, leak: str = "none") -> None:
        super().__init__()
        self.network = network
        self.extra = nn.ParameterList(torch.zeros(16) for _ in range(plants.parameters))
        self.kept: list[Any] = []
        self._plants = plants
        self._leak = leak

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss; wait for it where that is planted."""
        images, targets = batch
        loss = nn.functional.cross_entropy(self.network(images), targets)
        if "synchronisation" in self._plants.kinds:
            loss.item()
        if self._plants.after_wait_s:
            time.sleep(self._plants.after_wait_s)
        if len(self.extra):
            loss = loss + 0.0 * torch.cat(list(self.extra)).sum()
        if self._leak == "tensors":
            self.kept.append(torch.zeros(2**18, device=self.device))
        if self._leak == "host":
            self.kept.append(bytearray(2**20))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build AdamW, neither fused nor by foreach where that is planted."""
        if "optimizer" in self._plants.kinds:
            return torch.optim.AdamW(self.parameters(), foreach=False, fused=False)
        return torch.optim.AdamW(self.parameters(), fused=True)


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.model, arguments.image_size, arguments.batch_size = "test_resnet", 32, 8
        arguments.seeds, arguments.rounds, arguments.leak_s = 1, 3, 2.0
        arguments.cases = ["none", "data"]
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    torch.set_float32_matmul_precision("high")
    network = timm.create_model(arguments.model, num_classes=10)
    rows: list[Row] = []
    details: dict[str, Any] = {}
    path = Path()
    for part, (measure, tell) in _PARTS.items():
        if part not in arguments.parts:
            continue
        details[part] = cases = []
        for case in tell(arguments, network):
            cases.append(case)
            so_far = [*rows, _share(measure, cases)]
            path = save("diagnose", so_far, arguments, parser, details)  # a case takes a minute
        rows.append(_share(measure, cases))
    print(format_rows(rows))
    return path


def _bottlenecks(arguments: argparse.Namespace, network: nn.Module) -> Iterator[dict[str, Any]]:
    """Tell planted bottlenecks; a training without them says how long a step is."""
    sizes = {False: arguments.batch_size, True: _TINY_BATCH}
    step_s = {s: _step_s(arguments, network, Plants((), s)) for s in sizes.values()}
    for kinds, seed in itertools.product(_planted(arguments.cases), range(arguments.seeds)):
        plants = _draw(kinds, seed, sizes["batch" in kinds], step_s)
        probe = BottleneckProbe(arguments.rounds, block_s=0.01 if arguments.quick else 0.2)
        _train(arguments, network, plants, probe)
        assert probe.measured is not None  # the fit goes on until it is
        diagnosis = find_bottlenecks(probe.measured)
        found = {one.kind for one in diagnosis.found}
        gains = _gains(arguments, network, plants, {*kinds, *(found & _REAL.keys())})
        print(f"planted {'+'.join(kinds) or 'none'}: {sorted(found)} {gains}", flush=True)
        yield {
            "planted": list(kinds),
            "seed": seed,
            "found": sorted(found),
            "gains": gains,
            "right": _is_right(found, kinds, gains),
            "verdict": diagnosis.verdict,
            "evidence": [one.evidence for one in diagnosis.found],
            "sum_ratio": probe.measured.parts.closure_ratio(),
        }


def _leaks(arguments: argparse.Namespace, network: nn.Module) -> Iterator[dict[str, Any]]:
    """Tell planted leaks, and raise no alarm without one."""
    cuda = torch.cuda.is_available()
    expected = {"none": [], "tensors": ["leak"], "host": ["host"]}
    tolerated_mib = 10 if arguments.quick else _TOLERATED_MIB
    for leak, seed in itertools.product(_LEAKS, range(arguments.seeds)):
        watch = LeakWatch(arguments.leak_s, tolerated_mib, ends_fit=True)
        _train(arguments, network, Plants((), arguments.batch_size), watch, leak=leak)
        found = [growth.kind for growth in watch.growth]
        places = [site.place for site in watch.sites]
        print(f"planted leak {leak}: {found} {places[:1]}", flush=True)
        yield {
            "planted": leak,
            "seed": seed,
            "device": "cuda" if cuda else "cpu",
            "found": found,
            "right": found == expected[leak],
            "places": places,
        }


def _share(measure: str, cases: Sequence[dict[str, Any]]) -> Row:
    right, count = sum(case["right"] for case in cases), len(cases)
    share = right / count
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    spread = (share * (1 - share) / count + _Z**2 / (4 * count**2)) ** 0.5
    half = _Z * spread / (1 + _Z**2 / count)
    outcome = verdict(share, share, ">= 1.0", count)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Row(measure, f"{count} cases", share, "share", low, high, ">= 1.0", outcome)


def _planted(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """List the control, each kind alone and all pairs; or what was asked for."""
    if list(names) != ["all"]:
        yield from (() if name == "none" else tuple(name.split("+")) for name in names)
        return
    for count in range(3):
        yield from itertools.combinations(_KINDS, count)


def _draw(kinds: tuple[str, ...], seed: int, batch_size: int, step_s: dict[int, float]) -> Plants:
    """Draw how severe each plant is, relative to the healthy step."""
    dice = random.Random(f"{kinds}{seed}")
    healthy_s = step_s[batch_size]
    load_s, wait_s = dice.uniform(1.5, 4.0) * healthy_s, dice.uniform(0.3, 0.8) * healthy_s
    parameters = dice.randint(400, 1500)
    return Plants(
        kinds,
        batch_size,
        load_s=load_s if "data" in kinds else 0.0,
        after_wait_s=wait_s if "synchronisation" in kinds else 0.0,
        parameters=parameters if "optimizer" in kinds else 0,
    )


def _is_right(found: set[str], planted: Sequence[str], gains: dict[str, float]) -> bool:
    """Tell whether all that costs much was found, and nothing that costs nothing."""
    costly = {kind for kind in planted if gains[kind] >= _COSTLY[kind]}
    real = {kind for kind, least in _REAL.items() if gains.get(kind, 0.0) >= least}
    return costly <= found <= {*planted, *real}


def _gains(
    arguments: argparse.Namespace, network: nn.Module, plants: Plants, kinds: set[str]
) -> dict[str, float]:
    """Measure what removing each really brings: together they may hide each other."""
    sample_s = _step_s(arguments, network, plants) / plants.batch_size
    gains = {}
    for kind in sorted(kinds):
        other = plants.without(kind)
        gains[kind] = sample_s / (_step_s(arguments, network, other) / other.batch_size) - 1
    return gains


class _StepClock(L.Callback):
    """Times whole steps of a Trainer for a while and ends its fit."""

    def __init__(self, seconds: float) -> None:
        self.step_s = 0.0
        self._seconds = seconds
        self._began: tuple[int, float] | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin after the first steps, which choose kernels, and end after the time."""
        if batch_idx == _WARM_STEPS:
            self._began = batch_idx, self._now(pl_module.device)
        if self._began is None or batch_idx < _WARM_STEPS + _LEAST_STEPS:
            return
        if time.perf_counter() - self._began[1] >= self._seconds:
            first, began_s = self._began
            self.step_s = (self._now(pl_module.device) - began_s) / (batch_idx - first)
            raise _TunerExitException

    def _now(self, device: torch.device) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()


def _step_s(arguments: argparse.Namespace, network: nn.Module, plants: Plants) -> float:
    clock = _StepClock(0.1 if arguments.quick else 1.5)
    _train(arguments, network, plants, clock)
    return clock.step_s


def _train(
    arguments: argparse.Namespace,
    network: nn.Module,
    plants: Plants,
    callback: L.Callback,
    *,
    leak: str = "none",
) -> None:
    """Train until the callback has seen enough."""
    cuda = torch.cuda.is_available()
    loader: Iterable[Any] = DataLoader(
        _Images(arguments.image_size, plants.load_s, plants.batch_size),
        plants.batch_size,
        # A healthy loader has processes, a slow one has not enough of them.
        num_workers=0 if plants.load_s or arguments.quick else arguments.workers,
        pin_memory=cuda,
    )
    if plants.from_memory:
        loader = itertools.repeat(next(iter(loader)), 1_000_000)
    trainer = L.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if cuda else "32-true",
        max_epochs=1_000_000,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Module(copy.deepcopy(network), plants, leak=leak), loader)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks diagnose", description=__doc__)
    parser.add_argument("--model", default="resnet50", help="timm model")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=256, help="of what is not a tiny batch")
    parser.add_argument("--workers", type=int, default=8, help="of a healthy loader")
    parser.add_argument("--seeds", type=int, default=1, help="severities of each case")
    parser.add_argument("--rounds", type=int, default=6, help="how often each step is timed")
    parser.add_argument("--leak-s", type=float, default=20.0, help="seconds of a watch for leaks")
    parser.add_argument(
        "--cases", nargs="+", default=["all"], help="such as none data data+batch (default: all)"
    )
    parser.add_argument("--parts", nargs="+", default=list(_PARTS), choices=list(_PARTS))
    add_common_arguments(parser)
    return parser


_Teller = Callable[[argparse.Namespace, nn.Module], Iterator[dict[str, Any]]]
_PARTS: dict[str, tuple[str, _Teller]] = {
    "bottlenecks": ("planted bottlenecks told right", _bottlenecks),
    "leaks": ("planted leaks told right", _leaks),
}
