"""Search for the loader setting that keeps a device busy, with at most four probes.

Pure over `probe`. Imports no torch. One process that loads r1 samples per second and a device that
takes g say how many are needed: 1.2 g / r1. Probes only correct that where it is not enough.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gpuopt.choice import Choice
from gpuopt.tuning.goal import Figures, Goal, best_for
from gpuopt.tuning.loader_limits import WorkerLimit
from gpuopt.tuning.loader_setting import LoaderSetting

__all__ = ["MOST_PROBES", "LoaderReading", "LoaderResult", "search_loader"]

MOST_PROBES = 4

# The device is kept busy when it gets this share of what it takes.
_BUSY_RATIO = 0.97
# It need not be that much where the processes could load more than is taken: then the main process
# spends the rest on handing batches over, which no further process changes.
_NEARLY_BUSY_RATIO = 0.9
_SPARE_RATIO = 1.15
# Processes that give less than this more are not needed.
_GAIN_RATIO = 1.03
# Samples loaded for each that is taken: for the unevenness of loading. Under `memory` the share of
# the speed that has to remain comes in, see `_wanted`.
_SURPLUS = {"throughput": 1.2, "latency": 1.5, "memory": 1.05}
_FEWER_RATIO = 0.67
_READING_ERROR_RATIO = 1.15  # what one process loads is measured in a moment
_UNQUEUED_RATIO = 2.0  # and through a queue: in the main process loading may be as much quicker
_UNLIMITED = 1 << 20
_PREFETCH = {"latency": (4, 4), "memory": (1, 1), "throughput": (2, 4)}


@dataclass(frozen=True)
class LoaderReading:
    """One process that does nothing but load.

    Attributes:
        samples_per_second: How fast.
        cpu_ratio: Seconds in a second in which it wants a processor, and does not wait for a disk.
        unevenness: The slowest batch against the mean.
        batch_bytes: Size of a batch.
    """

    samples_per_second: float
    cpu_ratio: float
    unevenness: float
    batch_bytes: int


@dataclass(frozen=True)
class LoaderResult:
    """What the search found.

    Attributes:
        goal: What it was for.
        setting: The one to use.
        probes: Figures by setting, in the order of the probes.
        demand: Samples per second that the device takes; None where nobody knows.
        reading: Of one process.
        limit: The most processes, and why.
    """

    goal: Goal
    setting: LoaderSetting
    probes: Mapping[LoaderSetting, Figures]
    demand: float | None
    reading: LoaderReading
    limit: WorkerLimit

    @property
    def figures(self) -> Figures:
        """Those of the setting."""
        return self.probes[self.setting]

    @property
    def missing_samples_per_second(self) -> float:
        """What the device could take beyond the best setting; 0 when one keeps it busy."""
        if self.demand is None:
            return 0.0
        rates = {s.num_workers: f.samples_per_second for s, f in self.probes.items()}
        fastest = max(rates.values())
        if fastest >= _BUSY_RATIO * self.demand:
            return 0.0
        if any(_has_spare(rate, n, self.demand, self.reading) for n, rate in rates.items()):
            return 0.0
        return self.demand - fastest

    @property
    def shortfall(self) -> str | None:
        """Say in one line that no setting is enough; None when one is."""
        missing = self.missing_samples_per_second
        if not missing:
            return None
        return (
            f"CPU bound: {missing:.0f} samples/s missing of the {self.demand:.0f} that the device "
            f"takes; {self.limit.reason}: keep decoded images (data.cache=on), store smaller ones, "
            "or give it more processors"
        )

    def choices(self) -> list[Choice]:
        """Return each part of the setting with its evidence."""
        found, reading = self.figures, self.reading
        takes = "" if self.demand is None else f" of {self.demand:.0f} that the device takes"
        why = (
            f"{found.samples_per_second:.0f} samples/s{takes}, one process loads "
            f"{reading.samples_per_second:.0f}; {len(self.probes)} probes"
        )
        ready = f"the slowest batch takes {reading.unevenness:.1f} times the mean"
        pinned = "copies to the device need not wait" if self.setting.pin_memory else "no device"
        return [
            Choice("num_workers", self.setting.num_workers, "measured", why),
            Choice("prefetch_factor", self.setting.prefetch_factor, "measured", ready),
            Choice("pin_memory", self.setting.pin_memory, "table", pinned),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "goal": self.goal,
            "setting": asdict(self.setting),
            "probes": [{**asdict(s), **f.as_dict()} for s, f in self.probes.items()],
            "demand_samples_per_second": self.demand,
            "missing_samples_per_second": self.missing_samples_per_second,
            "reading": asdict(self.reading),
            "limit": asdict(self.limit),
            "shortfall": self.shortfall,
        }


def search_loader(
    probe: Callable[[LoaderSetting], Figures],
    reading: LoaderReading,
    *,
    limit_for: Callable[[int], WorkerLimit],
    demand: float | None = None,
    goal: Goal = "throughput",
    pin_memory: bool = False,
    shares_processors: bool = False,
    least_speed_ratio: float = 0.5,
    on_probe: Callable[[LoaderSetting, Figures], None] | None = None,
) -> LoaderResult:
    """Find the processes, the batches that each holds ready, and whether they are pinned.

    Args:
        probe: Measures the training with a setting.
        reading: Of one process.
        limit_for: The most processes that may hold so many batches ready each; see
            `worker_limit`.
        demand: Samples per second that the device takes when it never waits; None: as many as
            there are.
        goal: `throughput`: the most samples per second. `latency`: the most even batches, with
            more processes and batches in reserve. `memory`: the fewest waiting batches that keep
            `least_speed_ratio` of the throughput.
        pin_memory: Whether there is a device to copy to.
        shares_processors: Whether the training needs the processors itself, as on a CPU. Loading
            in turns with it, without a process of its own, is then tried as well.
        least_speed_ratio: For `memory`.
        on_probe: Called after each probe.
    """
    wanted = _wanted(goal, demand, least_speed_ratio)
    needed = _needed(goal, demand, wanted, reading)
    prefetch_factor = _prefetch(goal, reading.unevenness, needed, limit_for)
    limit = limit_for(prefetch_factor)
    found: dict[int, Figures] = {}

    def measure(workers: int) -> float:
        setting = LoaderSetting(workers, prefetch_factor, pin_memory)
        measured = probe(setting)
        memory_bytes = measured.memory_bytes or setting.waiting_batches * reading.batch_bytes
        found[workers] = replace(measured, memory_bytes=memory_bytes)
        if on_probe is not None:
            on_probe(setting, found[workers])
        return measured.samples_per_second

    workers: int | None = min(limit.workers, needed)
    while workers is not None and len(found) < MOST_PROBES:
        rate = measure(workers)
        if rate >= wanted:
            break
        if not shares_processors and _has_spare(rate, workers, demand, reading):
            # Where loading is quick, handing its batches over can take longer.
            in_turns = _in_turns(demand, _UNQUEUED_RATIO * reading.samples_per_second)
            if len(found) < MOST_PROBES and in_turns > rate:
                measure(0)
            break
        workers = _next(found, wanted, limit.workers, reading.samples_per_second)
        if workers is None and shares_processors and 0 not in found:
            workers = 0
    by_need = {count: found[count] for count in sorted(found)}
    chosen = best_for(goal, by_need, least_speed_ratio=least_speed_ratio)
    return LoaderResult(
        goal=goal,
        setting=LoaderSetting(chosen, prefetch_factor, pin_memory),
        probes={LoaderSetting(n, prefetch_factor, pin_memory): f for n, f in found.items()},
        demand=demand,
        reading=reading,
        limit=limit,
    )


def _prefetch(
    goal: Goal, unevenness: float, needed: int, limit_for: Callable[[int], WorkerLimit]
) -> int:
    """Hold as many batches ready as the slowest takes the time of, if memory holds them."""
    least, most = _PREFETCH[goal]
    wanted = min(most, max(least, math.ceil(unevenness)))
    while wanted > 1 and limit_for(wanted).workers < min(needed, limit_for(1).workers):
        wanted -= 1
    return wanted


def _wanted(goal: Goal, demand: float | None, least_speed_ratio: float) -> float:
    """Return the throughput at which no further probe is needed."""
    if demand is None:
        return math.inf
    return demand * (least_speed_ratio if goal == "memory" else _BUSY_RATIO)


def _needed(goal: Goal, demand: float | None, wanted: float, reading: LoaderReading) -> int:
    """Return the closed-form number of processes, which no limit is known of yet."""
    if demand is None:
        return _UNLIMITED
    if _in_turns(demand, reading.samples_per_second) >= wanted:
        return 0
    alone = max(reading.samples_per_second, 1e-9)
    return math.ceil(_SURPLUS[goal] * (wanted if goal == "memory" else demand) / alone)


def _in_turns(demand: float | None, alone: float) -> float:
    """Predict the throughput without processes of their own: loading and computing take turns."""
    return alone if demand is None else alone * demand / max(alone + demand, 1e-9)


def _next(found: Mapping[int, Figures], wanted: float, most: int, alone: float) -> int | None:
    """Return the next number of processes to try, or None when nothing is to be gained."""
    rates = {count: figures.samples_per_second for count, figures in found.items()}
    plateau = max(rates.values()) / _GAIN_RATIO
    best = min(count for count in rates if rates[count] >= plateau)
    fewer = [count for count in rates if count < best]
    more = [count for count in rates if count > best]
    if not more and best < most:
        per_process = rates[best] / max(1, best)
        enough = wanted / max(per_process, 1e-9)
        return int(min(most, 2 * best + 1, max(best + 1, math.ceil(min(enough, most)))))
    if best > 0 and not fewer:
        below = math.floor(_FEWER_RATIO * best)
        if below == 0 or _may_reach(below, plateau, alone):
            return below
    gaps = [(min(more) - best, (best + min(more)) // 2)] if more else []
    gaps += [(best - max(fewer), (best + max(fewer)) // 2)] if fewer else []
    width, middle = max(gaps, default=(0, 0))
    return middle if width > 1 and _may_reach(middle, plateau, alone) else None


def _has_spare(rate: float, workers: int, demand: float | None, reading: LoaderReading) -> bool:
    """Tell whether a device is nearly busy, and not for want of loading."""
    if demand is None or rate < _NEARLY_BUSY_RATIO * demand:
        return False
    return workers * reading.samples_per_second >= _SPARE_RATIO * rate


def _may_reach(count: int, rate: float, alone: float) -> bool:
    """Tell whether so many processes could load that much, if they did not disturb each other."""
    return count * alone * _READING_ERROR_RATIO >= rate
