"""What a search for the batch size has found, and which batch to train with."""

import math
from dataclasses import dataclass
from typing import Any

from gpuopt.choice import Choice
from gpuopt.errors import TargetNotMetError
from gpuopt.memory.micro_batch import BatchChoice, cut_global_batch
from gpuopt.memory.probe_result import ProbeResult
from gpuopt.memory.step_time import StepTime, fit_step_time

__all__ = ["FinderResult"]

_GIB = 2**30
# Share of a step's time that is spent on samples at the knee of the throughput.
_KNEE_EFFICIENCY = 0.97


@dataclass(frozen=True)
class FinderResult:
    """The answer of a search.

    Attributes:
        largest: Most samples that fit, see `ProbeResult.fits`; 0 when not even the least that was
            asked for is.
        is_verified: Whether `largest` itself was measured; else it lies a short way from a size
            that was.
        budget_bytes: What a step may take: what the device had, less the headroom.
        capacity_bytes: What the device had for torch's allocator, the least seen.
        headroom_ratio: Share of it that was to stay free.
        probes: In their order.
    """

    largest: int
    is_verified: bool
    budget_bytes: int
    capacity_bytes: int
    headroom_ratio: float
    probes: tuple[ProbeResult, ...]

    @property
    def out_of_memory_count(self) -> int:
        """Probes that ran out of memory; 0 unless the device lost memory during the search."""
        return sum(probe.ran_out_of_memory for probe in self.probes)

    @property
    def step_time(self) -> StepTime | None:
        """The time of a step, fitted to the probes; None when none was timed."""
        return fit_step_time(
            (probe.samples, probe.seconds_per_step)
            for probe in self.probes
            if probe.seconds_per_step is not None and not probe.thrashed
        )

    @property
    def knee(self) -> int:
        """Least batch with nearly the full throughput; `largest` when no step was timed."""
        time = self.step_time
        return self.largest if time is None else time.knee(_KNEE_EFFICIENCY, self.largest)

    @property
    def peak_bytes(self) -> int:
        """The peak of the largest batch that was measured and fits; may be above the budget."""
        fits = [p for p in self.probes if not p.ran_out_of_memory and p.samples <= self.largest]
        return max(fits, key=lambda p: p.samples).peak_bytes if fits else 0

    def judged(self, probe: ProbeResult) -> ProbeResult:
        """Return a probe as the search judged it, which lets only a slow flush count.

        Args:
            probe: As measured; one that the search did not see stays as it is.
        """
        return next((p for p in self.probes if p.samples == probe.samples), probe)

    def fits(self, probe: ProbeResult) -> bool:
        """Tell whether a batch that was measured fits what the device had in the end."""
        return probe.fits(self.capacity_bytes, self.headroom_ratio)

    def require(self, minimum: int) -> None:
        """Refuse what was found when it is less than the least of use.

        Raises:
            TargetNotMetError: Says what was measured and what to do.
        """
        if self.largest < minimum:
            raise TargetNotMetError(
                f"batch size {minimum} does not fit: {self.need()}; take a smaller model or "
                "image_size, checkpointing or less headroom, or free the device"
            )

    def need(self) -> str:
        """Word what the least size that was probed took, against the budget."""
        least = min(self.probes, key=lambda probe: probe.samples)
        took = f"took {least.peak_bytes / _GIB:.2f} GiB"
        if least.ran_out_of_memory:
            took = "ran out of memory"
        elif least.thrashed:
            took += " and made the allocator thrash"
        return (
            f"{least.samples} {took}, budget {self.budget_bytes / _GIB:.2f} of "
            f"{self.capacity_bytes / _GIB:.2f} GiB free"
        )

    def best_for(
        self, global_batch_size: int, devices: int = 1, *, is_ragged: bool = False
    ) -> BatchChoice:
        """Choose the micro-batch for a global batch, see `cut_global_batch`.

        Args:
            global_batch_size: Samples per optimizer step.
            devices: Devices that share them.
            is_ragged: Whether the last micro-batch of a step may be smaller than the others.
        """
        share = math.ceil(global_batch_size / devices)
        return cut_global_batch(self.largest, share, is_ragged=is_ragged)

    def choice(self, micro_batch_size: int) -> Choice:
        """Word a micro-batch size as a choice with the evidence of the probes."""
        failures = self.out_of_memory_count
        failed = f", {failures} of them out of memory" if failures else ""
        reason = (
            f"in {len(self.probes)} probes{failed}: {self.largest} fit, {self._taken()}; "
            f"full throughput from {self.knee}"
        )
        return Choice("micro_batch_size", micro_batch_size, "measured", reason)

    def _taken(self) -> str:
        """Say what the largest batch took, by its tensors alone where the whole is above budget."""
        budget = f"{self.budget_bytes / _GIB:.2f} GiB, {100 * self.headroom_ratio:.3g} % kept free"
        if self.peak_bytes <= self.budget_bytes:
            return f"measured up to {self.peak_bytes / _GIB:.2f} of {budget}"
        live = max(p.live_bytes for p in self.probes if p.samples <= self.largest)
        return f"measured with up to {live / _GIB:.2f} GiB of tensors, of {budget}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; sizes in bytes, times in seconds."""
        time = self.step_time
        return {
            "evidence": "measured",
            "largest": self.largest,
            "is_verified": self.is_verified,
            "knee": self.knee,
            "budget_bytes": self.budget_bytes,
            "capacity_bytes": self.capacity_bytes,
            "headroom_ratio": self.headroom_ratio,
            "peak_bytes": self.peak_bytes,
            "out_of_memory_count": self.out_of_memory_count,
            "base_seconds": None if time is None else time.base_seconds,
            "seconds_per_sample": None if time is None else time.seconds_per_sample,
            "probes": [probe.as_dict() for probe in self.probes],
        }
