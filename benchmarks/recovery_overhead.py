"""Steps with a recovery that nothing calls for, against steps of the same fit without it."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as L
import torch

from benchmarks.memory_cells import Cell, build
from benchmarks.one_batch_fit import ENDLESS, fit_one_batch
from benchmarks.step_setting import synchronizer
from benchmarks.trainer_segments import MeasuredError
from gpuopt.callbacks import OomRecovery
from gpuopt.measure.pairs import abba_orders
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["WITH", "WITHOUT", "Blocks", "OnAndOff", "blocks_within", "time_blocks"]

WITHOUT, WITH = "without", "with"

_PRELUDE_STEPS = 8
_TRIED_STEPS = 5
_LEAST_PAIRS = 20
_LEAST_STEPS, _MOST_STEPS = 3, 6


@dataclass(frozen=True)
class Blocks:
    """How many blocks of steps are timed, and how long they are.

    Attributes:
        pairs: Blocks of each side.
        steps: Timed steps of a block, whose median counts; one step before them does not.
    """

    pairs: int
    steps: int


def blocks_within(budget_s: float, step_s: float) -> Blocks:
    """Share a time out to many short blocks: neighbours in a pair meet the same machine.

    Args:
        budget_s: For all blocks; exceeded where steps are so slow that the least is too much.
        step_s: Of one step.
    """
    steps = int(budget_s / (2 * _LEAST_PAIRS * step_s)) - 1
    steps = max(_LEAST_STEPS, min(_MOST_STEPS, steps))
    return Blocks(max(_LEAST_PAIRS, int(budget_s / (2 * (steps + 1) * step_s))), steps)


@dataclass
class OnAndOff(L.Callback):
    """Turns a recovery of its own Trainer on and off from block to block, and times the blocks.

    Off means that the module has its own methods and the Trainer does not know the callback. One
    fit, one model and one warm allocator serve both sides. Nothing waits for the device between
    the first block and the last; on a GPU its own clock counts.

    Args:
        recovery: The last callback of the Trainer; this one comes before it.
        blocks: To be timed; None chooses them by the budget.
        budget_s: For all blocks.

    Attributes:
        step_s: Median step of each block, in seconds, `without` and `with`.
    """

    recovery: OomRecovery
    blocks: Blocks | None
    budget_s: float
    step_s: dict[str, list[float]] = field(default_factory=lambda: {WITHOUT: [], WITH: []})

    def __post_init__(self) -> None:
        self._lifted = contextlib.ExitStack()
        self._is_on = True
        self._marks: list[tuple[str, list[Any]]] = []
        self._course: Iterator[None] | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the measurement before each step."""
        if self._course is None:
            self._course = self._run(trainer, pl_module.device.type)
        if next(self._course, "end") == "end":
            raise MeasuredError

    def _run(self, trainer: L.Trainer, device: str) -> Iterator[None]:
        """Lead through all blocks; every `yield` lets the Trainer do one step."""
        for name in (WITHOUT, WITH):
            self._turn(trainer, name)
            for _ in range(_PRELUDE_STEPS):
                yield
        synchronize = synchronizer(device)
        synchronize()
        began_s = time.perf_counter()
        for _ in range(_TRIED_STEPS):
            yield
        synchronize()
        tried_s = (time.perf_counter() - began_s) / _TRIED_STEPS
        blocks = self.blocks = self.blocks or blocks_within(self.budget_s, tried_s)
        for name in itertools.chain(*abba_orders((WITHOUT, WITH), blocks.pairs)):
            self._turn(trainer, name)
            yield  # what was queued before the turn
            marks = [_mark(device)]
            for _ in range(blocks.steps):
                yield
                marks.append(_mark(device))
            self._marks.append((name, marks))
        self._turn(trainer, WITH)  # so that the end of the fit gives the module back
        synchronize()
        for name, marks in self._marks:
            spans = [_between_s(one, other) for one, other in itertools.pairwise(marks)]
            self.step_s[name].append(statistics.median(spans))

    def _turn(self, trainer: L.Trainer, name: str) -> None:
        """Turn the recovery on or off, where it is not already."""
        if self._is_on == (name == WITH):
            return
        self._is_on = name == WITH
        callbacks = callbacks_of(trainer)
        if self._is_on:
            self._lifted.close()
            callbacks.append(self.recovery)
        else:
            callbacks.remove(self.recovery)
            self._lifted.enter_context(self.recovery.standing_aside())


def time_blocks(
    cell: Cell, samples: int, *, budget_s: float, blocks: Blocks | None = None
) -> OnAndOff:
    """Time the steps of a network with and without recovery.

    Loading and augmentation are left out, which would only hide what recovery costs.

    Args:
        cell: The network.
        samples: Micro-batch size; each step takes one.
        budget_s: For the timed blocks.
        blocks: As many instead.
    """
    recovery = OomRecovery()
    timer = OnAndOff(recovery, blocks, budget_s)
    fit_one_batch(cell, samples, [timer, recovery], build(cell, ENDLESS))
    return timer


def _mark(device: str) -> Any:
    """Note the time: of the queue of a GPU, or of the host."""
    if device != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_s(one: Any, other: Any) -> float:
    """Return the seconds between two marks that have been passed."""
    return float(other - one if isinstance(one, float) else one.elapsed_time(other) / 1000)
