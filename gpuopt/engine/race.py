"""Time engines against each other on a machine that drifts: in turns, with intervals.

The unit is a segment of several calls; segments of all engines alternate and the order is reversed
from one round to the next (see `gpuopt.measure.pairs`). Each call waits for its result, as a
request of a user does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gpuopt.engine.protocol import Engine
from gpuopt.measure.pairs import PairedRatio, abba_orders, paired_ratio, spread

__all__ = ["Scope", "Timing", "race"]

Scope = Literal["engine", "end_to_end"]
"""`engine`: all stays on the device. `end_to_end`: from uint8 to probabilities on the host."""

_SCOPES: tuple[Scope, ...] = ("engine", "end_to_end")
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
        time_ratio: Its duration / that of the baseline, paired; None for the baseline itself.
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


def race(
    engines: Mapping[str, Engine],
    images: Tensor,
    *,
    batch_sizes: Sequence[int],
    warmup: int,
    runs: int,
    baseline: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[Timing, ...]]:
    """Time engines.

    Args:
        engines: On one device, by name.
        images: uint8 [n, 3, s, s] on the host; batches are taken from the front, repeated if need
            be.
        batch_sizes: Images per call; none above an engine's maximum.
        warmup: Calls of each engine before the first that counts, at each size.
        runs: Calls of each engine that count, at least 2 for an interval.
        baseline: The engine that the others are compared with.
        clock: Seconds; read when the device has done its work.

    Returns:
        For each engine its timings, by scope and batch size.
    """
    found: dict[str, list[Timing]] = {name: [] for name in engines}
    for scope in _SCOPES:
        for size in batch_sizes:
            calls = {
                name: _call(engine, _batch(images, size), scope) for name, engine in engines.items()
            }
            durations = _durations(calls, warmup, runs, clock)
            for name, timing in _timings(scope, size, durations, baseline).items():
                found[name].append(timing)
    return {name: tuple(timings) for name, timings in found.items()}


def _durations(
    calls: Mapping[str, Callable[[], None]], warmup: int, runs: int, clock: Callable[[], float]
) -> dict[str, list[list[float]]]:
    """Return the seconds of each call of each segment of each engine."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    rounds = min(_ROUNDS, runs)
    sizes = [runs // rounds + (number < runs % rounds) for number in range(rounds)]
    found: dict[str, list[list[float]]] = {name: [] for name in calls}
    for count, order in zip(sizes, abba_orders(list(calls), rounds), strict=True):
        for name in order:
            calls[name]()  # what the engine before it left in the caches is not its fault
            found[name].append([_timed(calls[name], clock) for _ in range(count)])
    return found


def _timed(call: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    call()
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
        ratio = None if name == baseline else paired_ratio(means[name], means[baseline])
        found[name] = Timing(
            scope, size, len(single), p50, p95, p99, rate.value, rate.low, rate.high, ratio
        )
    return found


def _call(engine: Engine, images: Tensor, scope: Scope) -> Callable[[], None]:
    """Make a call that ends when its result is there."""
    device = engine.device
    if scope == "engine":
        there = images.to(device)

        def classify() -> None:
            engine(there)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return classify
    host = images.pin_memory() if device.type == "cuda" else images

    def classify_from_host() -> None:
        engine(host.to(device, non_blocking=True)).softmax(1).cpu()  # copying back waits

    return classify_from_host


def _batch(images: Tensor, size: int) -> Tensor:
    repeats = -(-size // len(images))
    return images.repeat(repeats, 1, 1, 1)[:size].contiguous()
