"""Timing a DataLoader at different settings, alone and beside what takes its batches.

A part for anybody's loader:

    timing = LoaderTiming(lambda setting: DataLoader(images, 32, **setting.loader_arguments()))
    result = timing.tune(demand=900)
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from gpuopt.steps.batch_parts import sample_count, tensors_of
from gpuopt.tuning.goal import Figures, Goal
from gpuopt.tuning.loader_limits import WorkerLimit, worker_limit
from gpuopt.tuning.loader_search import LoaderReading, LoaderResult, search_loader
from gpuopt.tuning.loader_setting import LoaderSetting
from gpuopt.tuning.round_clock import RoundClock, RoundLimits

__all__ = ["LoaderTiming", "batch_bytes_of", "read_alone"]

_READ_BATCHES = 12
_READ_S = 2.0


class LoaderTiming:
    """Measures and chooses the setting of a loader.

    Args:
        make_loader: Makes a loader that works as a setting says; of a LightningDataModule for
            example `setting.apply_to(data)` and then `data.train_dataloader()`.
        consume: Does with a batch what a training does; None takes batches only.
        limits: How long a probe is.
        clock: Monotonic time in seconds, when all work that was queued is done.
    """

    def __init__(
        self,
        make_loader: Callable[[LoaderSetting], Iterable[Any]],
        consume: Callable[[Any], object] | None = None,
        *,
        limits: RoundLimits | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._make_loader = make_loader
        self._consume = consume
        self._limits = limits or RoundLimits()
        self._clock = clock

    def tune(
        self,
        *,
        demand: float | None = None,
        goal: Goal = "throughput",
        least_speed_ratio: float = 0.5,
        cpus: int | None = None,
        on_probe: Callable[[LoaderSetting, Figures], None] | None = None,
    ) -> LoaderResult:
        """Find a setting; see `search_loader`.

        Args:
            demand: Samples per second that the device takes when it never waits.
            goal: What is wanted.
            least_speed_ratio: For `memory`.
            cpus: Processors of this training; None asks the system.
            on_probe: Called after each probe.
        """
        reading = self.reading()

        def limit_for(prefetch_factor: int) -> WorkerLimit:
            return worker_limit(reading.cpu_ratio, reading.batch_bytes, prefetch_factor, cpus=cpus)

        return search_loader(
            self.probe,
            reading,
            limit_for=limit_for,
            demand=demand,
            goal=goal,
            pin_memory=torch.cuda.is_available(),
            least_speed_ratio=least_speed_ratio,
            on_probe=on_probe,
        )

    def reading(self) -> LoaderReading:
        """Measure one process that does nothing but load."""
        return read_alone(lambda: self._make_loader(LoaderSetting(1)))

    def probe(self, setting: LoaderSetting) -> Figures:
        """Measure a setting, also over several epochs with what an epoch's start takes.

        Raises:
            ValueError: When the loader is empty.
        """
        rounds = RoundClock(setting.num_workers, self._limits, settled_clock=self._clock)
        with _opened(lambda: self._make_loader(setting)) as loader:
            while True:
                is_empty = True
                for batch in loader:
                    is_empty = False
                    if self._consume is not None:
                        self._consume(batch)
                    if rounds.batch_done(sample_count(batch)):
                        return rounds.figures()
                if is_empty:
                    raise ValueError("the loader is empty")


def read_alone(make_loader: Callable[[], Iterable[Any]]) -> LoaderReading:
    """Measure a loader of one process.

    Args:
        make_loader: Makes it, with `num_workers=1`.

    Raises:
        ValueError: When it is empty.
    """
    gaps_s: list[float] = []
    samples, size_bytes = 0, 0
    with _opened(make_loader) as loader:
        batches = _endless(loader)
        size_bytes = batch_bytes_of(next(batches))
        began_s, cpu_before_s = time.perf_counter(), _children_cpu_s()
        before_s = began_s
        while len(gaps_s) < _READ_BATCHES and before_s - began_s < _READ_S:
            samples += sample_count(next(batches))
            now_s = time.perf_counter()
            gaps_s.append(now_s - before_s)
            before_s = now_s
        duration_s = max(before_s - began_s, 1e-9)
        cpu_s = _children_cpu_s()
    cpu_ratio = 1.0  # where nobody knows: as if it never waited for anything else
    if cpu_s is not None and cpu_before_s is not None:
        cpu_ratio = (cpu_s - cpu_before_s) / duration_s
    mean_s = duration_s / len(gaps_s)
    return LoaderReading(samples / duration_s, cpu_ratio, max(gaps_s) / mean_s, size_bytes)


def batch_bytes_of(batch: Any) -> int:
    """Add up the sizes of the tensors in a batch, however deep they lie."""
    return sum(tensor.nbytes for tensor in tensors_of(batch))


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        is_empty = True
        for batch in loader:
            is_empty = False
            yield batch
        if is_empty:
            raise ValueError("the loader is empty")


@contextlib.contextmanager
def _opened(make_loader: Callable[[], Iterable[Any]]) -> Iterator[Iterable[Any]]:
    """Make a loader, and end its processes, which live on between epochs."""
    loader: Any = None
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of any fork beside threads: the processes only load.
            warnings.filterwarnings("ignore", ".*use of fork.*", DeprecationWarning)
            # PyTorch counts processors, and not how much of one a process takes.
            warnings.filterwarnings("ignore", ".*suggested max number of worker.*")
            loader = make_loader()
            yield loader
    finally:
        if hasattr(loader, "close"):
            loader.close()
        iterator: Any = getattr(loader, "_iterator", None)
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()


def _children_cpu_s() -> float | None:
    """Add up for how long this process's children have run or waited for a processor to run on.

    Returns:
        Seconds, or None where the system does not tell.
    """
    total_ns = 0
    try:
        for thread in Path("/proc/self/task").iterdir():
            for child in (thread / "children").read_text("utf-8").split():
                for place in Path(f"/proc/{child}/task").iterdir():
                    ran, waited, _ = (place / "schedstat").read_text("utf-8").split()
                    total_ns += int(ran) + int(waited)
    except (OSError, ValueError):
        return None
    return total_ns / 1e9
