"""Time engines against each other on a machine that drifts: in turns, with intervals.

The unit is a segment of several calls; segments of all engines alternate and the order is reversed
from one round to the next (see `gpuopt.measure.pairs`). Each call waits for its result, as a
request of a user does. An engine that fails is named and left out where it failed, and what the
others took stays.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gpuopt.engine.exporting import first_line
from gpuopt.engine.protocol import Engine
from gpuopt.measure.pairs import PairedRatio, abba_orders, paired_ratio, spread
from gpuopt.memory.device_errors import free_memory, is_out_of_memory

__all__ = ["SCOPES", "Race", "RaceFault", "Scope", "Timing", "race"]

Scope = Literal["engine", "end_to_end"]
"""`engine`: all stays on the device. `end_to_end`: from uint8 to probabilities on the host."""

SCOPES: tuple[Scope, ...] = ("engine", "end_to_end")
_ROUNDS = 10


@dataclass(frozen=True)
class Timing:
    """One engine at one batch size.

    Attributes:
        scope: What a call includes.
        batch_size: Images per call.
        calls: That were timed.
        p50_ms: Median duration of a call.
        p95_ms: Which 95 of 100 calls do not exceed.
        p99_ms: Which 99 of 100 calls do not exceed.
        samples_per_second: Geometric mean over segments.
        samples_per_second_low: Lower bound of its 95 % interval.
        samples_per_second_high: Upper bound.
        time_ratio: Its duration / that of the baseline, paired; None for the baseline itself, and
            where the baseline failed.
    """

    scope: Scope
    batch_size: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    samples_per_second: float
    samples_per_second_low: float
    samples_per_second_high: float
    time_ratio: PairedRatio | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class RaceFault:
    """Why an engine could not be timed.

    Attributes:
        scope: What a call includes.
        batch_size: Images per call.
        reason: In one line.
        is_memory: Whether memory ran out, of which other engines hold some.
    """

    scope: Scope
    batch_size: int
    reason: str
    is_memory: bool

    def __str__(self) -> str:
        """Word it as one clause."""
        words = self.scope.replace("_", " ")
        return f"not timed at a batch of {self.batch_size} ({words}): {self.reason}"


@dataclass(frozen=True)
class Race:
    """What a race found.

    Attributes:
        timings: Of each engine by its name, by scope and batch size; without where it failed.
        faults: Of each engine that failed, by its name.
    """

    timings: dict[str, tuple[Timing, ...]]
    faults: dict[str, tuple[RaceFault, ...]]


def race(
    engines: Mapping[str, Engine],
    images: Tensor,
    *,
    batch_sizes: Sequence[int],
    warmup: int,
    runs: int,
    baseline: str,
    scopes: Sequence[Scope] = SCOPES,
    clock: Callable[[], float] = time.perf_counter,
) -> Race:
    """Time engines.

    Args:
        engines: On one device, by name.
        images: uint8 [n, 3, s, s] on the host; batches are taken from the front, repeated if need
            be.
        batch_sizes: Images per call; none above an engine's maximum.
        warmup: Calls of each engine before the first that counts, at each size.
        runs: Calls of each engine that count, at least 2 for an interval.
        baseline: The engine that the others are compared with.
        scopes: What calls include.
        clock: Seconds; read when the device has done its work.
    """
    found: dict[str, list[Timing]] = {name: [] for name in engines}
    faults: dict[str, list[RaceFault]] = {}
    device = next((engine.device for engine in engines.values()), torch.device("cpu"))
    for scope in scopes:
        for size in batch_sizes:
            turns = _Turns({name: _call(engine, scope) for name, engine in engines.items()}, clock)
            turns.run(_placed(_batch(images, size), device, scope), warmup, runs)
            for name, (reason, is_memory) in turns.faults.items():
                faults.setdefault(name, []).append(RaceFault(scope, size, reason, is_memory))
            for name, timing in _timings(scope, size, turns.durations, baseline).items():
                found[name].append(timing)
    return Race(
        {name: tuple(timings) for name, timings in found.items()},
        {name: tuple(reasons) for name, reasons in faults.items()},
    )


class _Turns:
    """Calls functions in turns and takes the seconds of each call; one that fails is out.

    Args:
        calls: By name.
        clock: Seconds.
    """

    def __init__(
        self, calls: Mapping[str, Callable[[Tensor], None]], clock: Callable[[], float]
    ) -> None:
        self._calls = calls
        self._clock = clock
        self.durations: dict[str, list[list[float]]] = {name: [] for name in calls}
        self.faults: dict[str, tuple[str, bool]] = {}

    def run(self, batch: Tensor, warmup: int, runs: int) -> None:
        """Fill `durations`, one list for each segment of calls."""
        for name in self._calls:
            self._segment(name, batch, before=warmup, count=0)
        rounds = min(_ROUNDS, runs)
        sizes = [runs // rounds + (number < runs % rounds) for number in range(rounds)]
        for count, order in zip(sizes, abba_orders(list(self._calls), rounds), strict=True):
            for name in order:
                # What the engine before it left in the caches is not its fault.
                self._segment(name, batch, before=1, count=count)

    def _segment(self, name: str, batch: Tensor, *, before: int, count: int) -> None:
        if name in self.faults:
            return
        call, clock = self._calls[name], self._clock
        try:
            for _ in range(before):
                call(batch)
            taken = [_timed(call, batch, clock) for _ in range(count)]
        except Exception as error:  # engines raise anything
            self.faults[name] = first_line(error), is_out_of_memory(error)
            del self.durations[name]
        else:
            if count:
                self.durations[name].append(taken)
        if name in self.faults:  # not before: the error held the tensors of its call
            free_memory()


def _timed(call: Callable[[Tensor], None], batch: Tensor, clock: Callable[[], float]) -> float:
    start = clock()
    call(batch)
    return clock() - start


def _timings(
    scope: Scope, size: int, durations: Mapping[str, list[list[float]]], baseline: str
) -> dict[str, Timing]:
    means = {name: [sum(s) / len(s) for s in segments] for name, segments in durations.items()}
    found = {}
    for name, segments in durations.items():
        single = [seconds for segment in segments for seconds in segment]
        p50, p95, p99 = (float(ms) for ms in 1000 * np.percentile(single, (50, 95, 99)))
        rate = spread([size / mean for mean in means[name]])
        is_alone = name == baseline or baseline not in means
        ratio = None if is_alone else paired_ratio(means[name], means[baseline])
        found[name] = Timing(
            scope, size, len(single), p50, p95, p99, rate.value, rate.low, rate.high, ratio
        )
    return found


def _placed(batch: Tensor, device: torch.device, scope: Scope) -> Tensor:
    """Put a batch where calls of a scope find it; once for all engines."""
    if scope == "engine":
        return batch.to(device)
    return batch.pin_memory() if device.type == "cuda" else batch


def _call(engine: Engine, scope: Scope) -> Callable[[Tensor], None]:
    """Make a call that ends when its result is there."""
    device = engine.device
    if scope == "engine":

        def classify(there: Tensor) -> None:
            engine(there)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return classify

    def classify_from_host(host: Tensor) -> None:
        engine(host.to(device, non_blocking=True)).softmax(1).cpu()  # copying back waits

    return classify_from_host


def _batch(images: Tensor, size: int) -> Tensor:
    repeats = -(-size // len(images))
    return images.repeat(repeats, 1, 1, 1)[:size].contiguous()
