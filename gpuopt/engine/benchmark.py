"""Build, prove and time engines of one network, side by side."""

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gpuopt.engine.fallback import Attempt, EngineSearch, ProofImages, VerifiedEngine
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.race import SCOPES, Race, Timing, race
from gpuopt.engine.record import EngineRecord
from gpuopt.engine.served_model import example_images
from gpuopt.engine.verification import Bounds
from gpuopt.memory.device_errors import free_memory
from gpuopt.memory.process_memory import resident_bytes

__all__ = [
    "MadeEngine",
    "benchmark_batch_sizes",
    "benchmark_engines",
    "grown_bytes",
    "used_bytes",
]

_log = logging.getLogger(__name__)

_BASELINE = "eager"


@dataclass(frozen=True)
class MadeEngine:
    """An engine and what it took to make it.

    Attributes:
        engine: Ready to be called.
        build_s: Seconds until it could be called; None when it was built before.
    """

    engine: Engine
    build_s: float | None


def benchmark_batch_sizes(optimal: int, maximum: int) -> tuple[int, ...]:
    """Name the batch sizes that engines are timed at: 1, the optimal and the largest."""
    return tuple(sorted({1, optimal, maximum}))


def benchmark_engines(
    names: Sequence[str],
    request: EngineRequest,
    network: TrainedNetwork,
    proof: ProofImages,
    *,
    make: Callable[[str, EngineRequest], MadeEngine],
    warmup: int,
    runs: int,
    bounds: Bounds,
    tell: Callable[[str], None],
    keep: Callable[[VerifiedEngine], None] = lambda found: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[EngineRecord]:
    """Make engines, prove them, and time those that are right against eager.

    An engine that is wrong as it was asked for is tried with more layers in fp32, see
    `EngineSearch`. With fewer images than the bounds ask for engines are compared and timed, but
    none counts as proved.

    Args:
        names: Backends; eager is added, as the baseline.
        request: What is asked for.
        network: Left unchanged.
        proof: Real images, at least one.
        make: Builds or loads an engine.
        warmup: Calls before the first that counts.
        runs: Calls that count, of each engine, scope and batch size.
        bounds: What proves an engine.
        tell: Takes one line for each step.
        keep: Called with each engine that counts as proved.
        clock: Seconds.

    Returns:
        A record of each engine, in order; of one that failed with the reason.
    """
    sizes = benchmark_batch_sizes(request.optimal_batch_size, request.max_batch_size)
    builds = _TimedBuilds(make, sizes, clock)
    found = min(len(proof.images), bounds.least_images)
    enough = replace(bounds, least_images=found)
    search = EngineSearch(request, network, proof, make=builds, tell=tell, bounds=enough)
    records: dict[str, EngineRecord] = {}
    engines: dict[str, Engine] = {}
    requests: dict[str, EngineRequest] = {}
    for name in dict.fromkeys((_BASELINE, *names)):
        before = used_bytes(request.device, settle=True)
        proved, attempts = search.prove(name)
        record = _record(attempts[-1], proved is not None, found, bounds)
        if proved is not None:
            record = replace(
                record,
                build_s=builds.duration_s.get((name, proved.request)),
                memory_bytes=grown_bytes(before, used_bytes(request.device)),
            )
            engines[name], requests[name] = proved.engine, proved.request
            if record.is_verified:
                keep(proved)
        records[name] = record
        del proved  # `engines` alone holds them: their memory may be needed
    timed = _timed(
        engines,
        proof,
        make=lambda name: make(name, requests[name]).engine,
        batch_sizes=sizes,
        warmup=warmup,
        runs=runs,
        baseline=_BASELINE if _BASELINE in engines else next(iter(engines), _BASELINE),
        clock=clock,
    )
    return [_with_timings(record, timed) for record in records.values()]


class _TimedBuilds:
    """Makes engines, and keeps how long those took that had to be built.

    Attributes:
        duration_s: By backend and request.
    """

    def __init__(
        self,
        make: Callable[[str, EngineRequest], MadeEngine],
        batch_sizes: Sequence[int],
        clock: Callable[[], float],
    ) -> None:
        self.duration_s: dict[tuple[str, EngineRequest], float] = {}
        self._make = make
        self._batch_sizes = batch_sizes
        self._clock = clock

    def __call__(self, name: str, request: EngineRequest) -> Engine:
        made = self._make(name, request)
        if made.build_s is not None:
            start = self._clock()
            for size in self._batch_sizes:  # some compile at the first call of a size
                made.engine(example_images(request, size))
            self.duration_s[name, request] = made.build_s + self._clock() - start
        return made.engine


def _record(last: Attempt, is_proved: bool, found: int, bounds: Bounds) -> EngineRecord:
    """Say what the search for an engine came to, with so many images.

    Args:
        last: Its last step.
        is_proved: Whether that found an engine.
        found: Images that it was compared on.
        bounds: What proves an engine.
    """
    is_enough = found >= bounds.least_images
    reason = str(last) if is_enough else _unproved(str(last), found, bounds)
    return EngineRecord(
        last.engine,
        last.precision,
        last.fp32_layers,
        build_s=None,
        memory_bytes=None,
        is_verified=is_proved and is_enough,
        reason=reason,
        verification=last.verification,
        timings=(),
    )


def _with_timings(record: EngineRecord, timed: Race) -> EngineRecord:
    return replace(
        record,
        timings=timed.timings.get(record.engine, ()),
        faults=tuple(map(str, timed.faults.get(record.engine, ()))),
    )


def _timed(
    engines: dict[str, Engine],
    proof: ProofImages,
    *,
    make: Callable[[str], Engine],
    batch_sizes: Sequence[int],
    baseline: str,
    **options: Any,
) -> Race:
    """Time all engines in turns, and what did not fit beside the others with the baseline alone.

    Args:
        engines: Is emptied where memory ran out.
        proof: Images.
        make: Loads an engine again.
        batch_sizes: See `race`.
        baseline: See `race`.
        **options: For `race`.
    """
    first = race(engines, proof.images, batch_sizes=batch_sizes, baseline=baseline, **options)
    timings, faults = dict(first.timings), dict(first.faults)
    again = [name for name, reasons in faults.items() if any(r.is_memory for r in reasons)]
    if not again or len(engines) == 1:
        return first
    for name in again:
        engines.clear()
        free_memory()
        try:
            engines |= {one: make(one) for one in dict.fromkeys((baseline, name))}
        except Exception as error:  # what it was is said by its faults
            _log.warning("engine=%s cannot be loaded again: %s", name, error)
            continue
        for fault in faults.pop(name):
            alone = race(
                engines,
                proof.images,
                batch_sizes=[fault.batch_size],
                scopes=[fault.scope],
                baseline=baseline,
                **options,
            )
            timings[name] = _in_order((*timings[name], *alone.timings[name]))
            if name in alone.faults:
                faults[name] = (*faults.get(name, ()), *alone.faults[name])
    return Race(timings, faults)


def _in_order(timings: Sequence[Timing]) -> tuple[Timing, ...]:
    return tuple(sorted(timings, key=lambda t: (SCOPES.index(t.scope), t.batch_size)))


def used_bytes(device: torch.device, *, settle: bool = False) -> int | None:
    """Return what is used of a device's memory, or of the host's by this process.

    Engines keep memory outside of PyTorch's allocator, so the driver is asked.

    Args:
        device: A CUDA device, or the CPU.
        settle: Give back what nobody uses first.

    Returns:
        None where the system does not say.
    """
    if settle:
        gc.collect()
    if device.type == "cuda":
        if settle:
            torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    return resident_bytes()


def grown_bytes(before: int | None, after: int | None) -> int | None:
    """Return what more is used than before, at least 0; None where one of the two is unknown."""
    return None if before is None or after is None else max(0, after - before)


def _unproved(line: str, found: int, bounds: Bounds) -> str:
    return f"not proved: {found} images, at least {bounds.least_images} are needed; {line}"
