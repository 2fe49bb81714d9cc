"""Find the largest batch that fits, from at most four probes and without running out of memory.

A probe measures the peak of one batch size. The next size is always the largest one that fits
under a bound on the memory of all sizes not measured yet; so each probe is as bold as what is
known allows, and no bolder. Two bounds hold from a measured size on:

- The chord: the peak is convex and what does not depend on the batch is below `resident_bytes`,
  so the line from there through the measured peak is at least as steep as what follows.
- The prior: the predictor's curve, at most a fifth too flat. Once two sizes are measured its
  scale is known better. A prior that a measured peak contradicts is dropped.

Measured peaks scatter with the batch size, because cuDNN chooses another algorithm with another
workspace. That much is left below the capacity of the device by every size that is not measured.

The peak counts the pieces between tensors, which the allocator needs less of where memory is
short. So a further probe may be as large as the bounds on the tensors alone allow; whether it
fits is measured, and an answer beyond the bounds on the whole peak is always one that was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gpuopt.hardware import MEASURED_HEADROOM_RATIO
from gpuopt.memory.estimate import MemoryEstimate
from gpuopt.memory.finder_result import FinderResult
from gpuopt.memory.probe_result import ProbeResult, most_live_bytes

__all__ = ["MOST_PROBES", "find_batch_size"]

MOST_PROBES = 4

_GIB = 2**30
# By how much the peaks of two neighbouring sizes may differ without reason.
_SCATTER_BYTES = int(0.3 * _GIB)
# How many times that two sizes must differ by before the slope between them is believed.
_TELLING_SCATTERS = 4
# No slope is less than that share of the prior's: what looks so is scatter.
_LEAST_SCALE = 0.5
# A sample's time, against the least of smaller sizes, from which an allocator that gives back its
# cache in each step is said to thrash. A flush that takes a millisecond of fifty does no harm.
_SLOW = 1.05
# By how much the predictor may be too low.
_PRIOR_ERROR = 0.2
# Share of the budget that the first probe is to take by the prior's word: little, since nothing
# is measured yet, and because times at very different sizes show what a step costs by itself.
_FIRST_SHARE = 0.35
_FIRST_SAMPLES = 2  # BatchNorm on one value refuses a single sample
# Share of the tensors that the pieces between them take in most networks; tests on emulated cards
# found 1 to 6 %. Where tensors are so large that the pieces take more, few of them can be used
# again: what is beyond that share is kept free twice.
_USUAL_PIECES = 0.06
# The line of the steepest moment may start that much below what stays between the steps:
# autocast's copies of the weights are not there at the peak of every network.
_RESIDENT_SHARE = 0.95
_LARGEST = 65_536  # more samples at once are of no use to anybody


def find_batch_size(
    probe: Callable[[int], ProbeResult],
    *,
    capacity_bytes: int,
    headroom_ratio: float = MEASURED_HEADROOM_RATIO,
    prior: MemoryEstimate | None = None,
    minimum: int = 1,
    maximum: int | None = None,
) -> FinderResult:
    """Search for the largest batch whose peak leaves the headroom free.

    Args:
        probe: Measures a batch size; called at most four times, never twice with the same.
        capacity_bytes: What torch's allocator can have: free memory and what it holds already.
        headroom_ratio: Share of it to keep free, 0 to 0.9.
        prior: The predictor's curve, if there is one.
        minimum: Least batch of use.
        maximum: Largest batch of use; None for no limit.

    Returns:
        With `largest` 0 when not even the minimum is within the budget: see `require`.
    """
    search = _Search(capacity_bytes, headroom_ratio, prior, minimum, maximum or _LARGEST)
    while len(search.probes) < MOST_PROBES:
        samples = search.next_samples()
        if samples is None:
            break
        search.note(probe(samples))
    return search.result()


@dataclass
class _Search:
    """What is known so far."""

    capacity_bytes: int
    headroom_ratio: float
    prior: MemoryEstimate | None
    minimum: int
    maximum: int
    probes: list[ProbeResult] = field(default_factory=list)

    @property
    def budget_bytes(self) -> int:
        return int(self.capacity_bytes * (1 - self.headroom_ratio))

    @property
    def _unmeasured_bytes(self) -> int:
        """What a size that is not measured may take by the bounds."""
        return min(self.budget_bytes, self.capacity_bytes - _SCATTER_BYTES)

    @property
    def _measured(self) -> list[ProbeResult]:
        measured = [probe for probe in self.probes if not probe.ran_out_of_memory]
        return sorted(measured, key=lambda probe: probe.samples)

    @property
    def _fitting(self) -> list[ProbeResult]:
        return [p for p in self._measured if p.fits(self.capacity_bytes, self.headroom_ratio)]

    @property
    def _too_large(self) -> int:
        """The least size that is known not to fit, one above the maximum at most."""
        fitting = {probe.samples for probe in self._fitting}
        return min(
            [p.samples for p in self.probes if p.samples not in fitting] + [self.maximum + 1]
        )

    def note(self, result: ProbeResult) -> None:
        if result.thrashed and not self._is_slow(result):
            result = replace(result, thrashed=False)
        self.probes.append(result)
        if result.capacity_bytes is not None:
            self.capacity_bytes = min(self.capacity_bytes, result.capacity_bytes)
        if not self._agrees(result):
            self.prior = None

    def _is_slow(self, result: ProbeResult) -> bool:
        """Tell whether giving back the cache costs a step more than it is worth."""
        seconds = [
            probe.seconds_per_step / probe.samples
            for probe in self._fitting
            if probe.seconds_per_step is not None
        ]
        if result.seconds_per_step is None or not seconds:
            return True
        return result.seconds_per_step / result.samples > _SLOW * min(seconds)

    def next_samples(self) -> int | None:
        """Return the size to measure next; None when nothing more is to be learned."""
        if not self.probes:
            return self._first()
        if not self._fitting:
            return self._below()
        samples = max(self._reachable(), self._reachable_by_tensors())
        return samples if samples > self._fitting[-1].samples else None

    def result(self) -> FinderResult:
        measured = largest = self._fitting[-1].samples if self._fitting else 0
        is_sure = not any(probe.ran_out_of_memory or probe.thrashed for probe in self.probes)
        if measured and is_sure:
            largest = max(measured, self._reachable())  # else only what was measured is sure
        return FinderResult(
            largest,
            largest == measured,
            self.budget_bytes,
            self.capacity_bytes,
            self.headroom_ratio,
            tuple(self.probes),
        )

    # --- how far ------------------------------------------------------------------------------

    def _first(self) -> int:
        samples = _FIRST_SAMPLES
        if self.prior is not None:
            context = self.prior.fixed.context
            samples = self.prior.largest_batch(int(context + self.budget_bytes * _FIRST_SHARE))
            samples = max(1, samples)
        return min(max(samples, self.minimum), self.maximum)

    def _below(self) -> int | None:
        """Return a smaller size when none fits yet; the last probe tells whether any does."""
        least, done = self._too_large, len(self.probes)
        if least <= self.minimum:
            return None
        return self.minimum if done == MOST_PROBES - 1 else max(self.minimum, least // 2**done)

    def _reachable(self) -> int:
        """Return the largest size that fits by what is known."""
        base = self._fitting[-1]
        above = self._too_large
        low = self._largest_below(above, _peak, self._unmeasured_bytes)
        failed = next((p for p in self.probes if p.samples == above), None)
        if failed is None:
            return low
        if failed.ran_out_of_memory or failed.thrashed:
            return min(low, (base.samples + above) // 2)
        return max(low, self._between(base, failed))

    def _reachable_by_tensors(self) -> int:
        """Return the largest size to try whose tensors fit by what is known; 0 when unknown."""
        if not all(probe.live_bytes for probe in self._fitting):
            return 0
        if any(probe.ran_out_of_memory for probe in self.probes):
            return 0  # the pieces do matter here
        base, above = self._fitting[-1].samples, self._too_large
        allowed = most_live_bytes(self.capacity_bytes, self.headroom_ratio)
        samples = self._largest_below(above, _live, int(allowed / self._spread()))
        # Just below a size at which the allocator thrashed it would thrash as well.
        has_thrashed = any(probe.thrashed for probe in self.probes)
        return min(samples, (base + above) // 2) if has_thrashed else samples

    def _spread(self) -> float:
        """Return by how much less the tensors may take for the pieces that will lie between."""
        base = self._fitting[-1]
        pieces = (base.peak_bytes - base.live_bytes) / base.live_bytes
        return 1 + 2 * max(0.0, pieces - _USUAL_PIECES)

    def _largest_below(
        self, above: int, read: Callable[[ProbeResult], int], allowed_bytes: int
    ) -> int:
        """Return the largest size below another whose bound is within what is allowed."""
        low, high = self._fitting[-1].samples, above  # `low` fits, `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            if self._bound(middle, read) <= allowed_bytes:
                low = middle
            else:
                high = middle
        return low

    def _between(self, base: ProbeResult, over: ProbeResult) -> int:
        """Interpolate between a size that fits and one above the budget: convex, so on top."""
        slope = (over.peak_bytes - base.peak_bytes) / (over.samples - base.samples)
        if slope <= 0:
            return base.samples
        gained = int(max(0, self._unmeasured_bytes - base.peak_bytes) / slope)
        return min(base.samples + gained, over.samples - 1)

    def _bound(self, samples: int, read: Callable[[ProbeResult], int]) -> float:
        """Return the most bytes that more samples than measured may take, scatter aside."""
        residents = [p.resident_bytes for p in self._measured if p.resident_bytes]
        start = _RESIDENT_SHARE * min(residents, default=0)
        # From every size that was measured: one of them had the least workspace.
        return min(self._bound_from(probe, start, samples, read) for probe in self._fitting)

    def _bound_from(
        self, probe: ProbeResult, start: float, samples: int, read: Callable[[ProbeResult], int]
    ) -> float:
        added = (read(probe) - start) / probe.samples * (samples - probe.samples)
        if self.prior is not None:
            gain = self._prior_gain(probe.samples, samples)
            added = min(added, self._prior_scale(read) * gain)
        return read(probe) + added

    # --- the prior ----------------------------------------------------------------------------

    def _prior_gain(self, low: int, high: int) -> int:
        assert self.prior is not None
        return self.prior.peak_bytes(high) - self.prior.peak_bytes(low)

    def _prior_scale(self, read: Callable[[ProbeResult], int]) -> float:
        """Return the most that the prior's slope has to be multiplied by.

        Two sizes tell only when they lie so far apart that their scatter means little: of two
        neighbours the larger may well have the lower peak.
        """
        scales = [1 + _PRIOR_ERROR]
        *smaller, base = self._fitting
        for probe in smaller:
            gain = self._prior_gain(probe.samples, base.samples)
            if gain > _TELLING_SCATTERS * _SCATTER_BYTES:
                scales.append((read(base) - read(probe) + _SCATTER_BYTES) / gain)
        return max(_LEAST_SCALE, min(scales))

    def _agrees(self, result: ProbeResult) -> bool:
        """Tell whether a measured peak is where the prior may be."""
        if self.prior is None or result.ran_out_of_memory:
            return not result.ran_out_of_memory
        most = self.prior.allocated_bytes(result.samples) * (1 + _PRIOR_ERROR) + _SCATTER_BYTES
        return result.peak_bytes <= most


def _peak(probe: ProbeResult) -> int:
    return probe.peak_bytes


def _live(probe: ProbeResult) -> int:
    return probe.live_bytes
