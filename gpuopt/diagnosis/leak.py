"""What a watch over a training's memory has found, in words, and when memory will be gone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpuopt.measure import duration_text
from gpuopt.measure.memory_growth import Growth, MemorySeries
from gpuopt.measure.trend import LEAST_READINGS
from gpuopt.steps.allocation_sites import AllocationSite, GrowingContainer
from gpuopt.steps.tensor_cycles import TensorCycles

__all__ = ["Forecast", "LeakDiagnosis"]

_MIB = 2**20
_WORDS = {
    "leak": "tensors that are never freed",
    "fragmentation": "memory that the CUDA allocator holds and cannot give out again",
    "host": "memory of the host",
    "loader": "memory of the loader's processes",
}
_REMEDIES = {
    "leak": "keep numbers rather than tensors (.item(), .detach()), and empty lists of outputs",
    "fragmentation": "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, or keep batches of one "
    "size",
    "host": "empty what gets longer with each step",
    "loader": "keep nothing in the dataset from sample to sample",
}
# Of garbage that waits for the collector: less than this per step is nothing to look after.
_LEAST_CYCLE_BYTES = _MIB


@dataclass(frozen=True)
class Forecast:
    """When memory will be gone if it grows on.

    Attributes:
        seconds: From the end of the watch.
        steps: Optimizer steps until then.
    """

    seconds: float
    steps: float


@dataclass(frozen=True)
class LeakDiagnosis:
    """What was found.

    Attributes:
        series: The readings.
        growth: What grows.
        sites: Lines whose objects stay.
        containers: Lists and the like that get longer.
        cycles: Tensors in reference cycles; None where there are none.
        free_bytes: By kind of growth, how much more memory there is; unknown ones are missing.
    """

    series: MemorySeries
    growth: Sequence[Growth]
    sites: Sequence[AllocationSite]
    containers: Sequence[GrowingContainer]
    cycles: TensorCycles | None
    free_bytes: Mapping[str, int]

    def forecast(self, growth: Growth) -> Forecast | None:
        """Return when memory will be gone; None where nobody knows how much there is."""
        free_bytes = self.free_bytes.get(growth.kind)
        if free_bytes is None:
            return None
        seconds = max(0, free_bytes) / growth.bytes_per_s
        return Forecast(seconds, seconds * self.series.settled().steps_per_s)

    @property
    def verdict(self) -> str:
        """Say in one sentence whether memory leaks."""
        settled = self.series.settled()
        if not self.growth:
            if len(settled.time_s) < LEAST_READINGS:
                return "Too few steps to tell whether memory leaks: watch longer."
            span = duration_text(settled.time_s[-1] - settled.time_s[0])
            steps = settled.steps[-1] - settled.steps[0]
            return f"No leak: memory came and went for {steps} steps ({span})."
        first = self.growth[0]
        text = f"Memory leaks: {_WORDS[first.kind]}, {_rate(first)}"
        forecast = self.forecast(first)
        if forecast is not None:
            text += f"; out of memory in about {duration_text(forecast.seconds)}"
            text += f" ({forecast.steps:.0f} steps)"
        return f"{text}."

    def lines(self) -> list[str]:
        """Say everything else, one thing per line."""
        found = [
            f"{one.kind}: {_WORDS[one.kind]}, {_rate(one)}; {_REMEDIES[one.kind]}"
            for one in self.growth
        ]
        for site in self.sites:
            size = _size(site.bytes_per_step)
            found.append(
                f"{site.place}: {site.objects_per_step:.3g} objects of {size} stay after each "
                f"step: {site.code}"
            )
        found += [
            f"{container.name} gets {container.items_per_step:.3g} longer each step"
            for container in self.containers
        ]
        # No line of the loader's processes is looked for.
        if any(one.kind != "loader" for one in self.growth) and not self.sites:
            found.append("no line of Python stands out: watch longer, or look into compiled code")
        cycles = self.cycles
        if cycles is not None and cycles.bytes_per_step >= _LEAST_CYCLE_BYTES:
            found.append(
                f"reference cycles hold {cycles.tensors_per_step:.3g} tensors of "
                f"{_size(cycles.bytes_per_step)} per step until Python collects them, by "
                f"{', '.join(cycles.holders) or 'the tensors themselves'}: break the cycle, or "
                "use a weakref"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        growth = []
        for one in self.growth:
            forecast = self.forecast(one)
            at = None if forecast is None else asdict(forecast)
            growth.append({**one.as_dict(), "out_of_memory": at})
        return {
            "verdict": self.verdict,
            "growth": growth,
            "sites": [asdict(site) for site in self.sites],
            "containers": [asdict(container) for container in self.containers],
            "cycles": None if self.cycles is None else asdict(self.cycles),
            "readings": asdict(self.series),
        }


def _rate(growth: Growth) -> str:
    return f"{_size(growth.bytes_per_step)} a step, {growth.bytes_per_s / _MIB:.3g} MiB/s"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / _MIB:.3g} MiB" if size_bytes >= 0.1 * _MIB else f"{size_bytes:.0f} bytes"
