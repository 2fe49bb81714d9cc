"""A probe that several ranks run together, each seeing what the tightest of them saw."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import lightning.pytorch as L

from gpuopt.callbacks.agreement import largest_of_ranks
from gpuopt.memory.estimate import MemoryEstimate
from gpuopt.memory.probe_result import ProbeResult

__all__ = ["LockStep", "SearchLimits"]


@dataclass(frozen=True)
class SearchLimits:
    """What a search goes by, beside its probes; see `find_batch_size`."""

    capacity_bytes: int
    headroom_ratio: float
    prior: MemoryEstimate | None
    minimum: int
    maximum: int | None


class LockStep:
    """Agrees on the limits of a search, runs its probe and agrees on the results.

    With equal limits and equal results every rank searches the same sizes, in as many probes, and
    finds the same one, which fits the tightest rank with the strictest limits. A rank that runs
    out of memory answers like the others, so none waits in vain.

    Args:
        trainer: Knows the ranks.
        probe: Of this rank alone.
    """

    def __init__(self, trainer: L.Trainer, probe: Callable[[int], ProbeResult]) -> None:
        self._trainer = trainer
        self._probe = probe

    def strictest(self, own: SearchLimits) -> SearchLimits:
        """Return limits that hold on every rank; cards that are not alike come with unlike ones.

        A prior stays only when all ranks have the same: each is of its own card.
        """
        if self._trainer.world_size == 1:
            return own
        digest = _digest(own.prior)
        headroom_ratio, minimum, maximum, capacity, highest, lowest = largest_of_ranks(
            self._trainer,
            [
                own.headroom_ratio,
                own.minimum,
                -(own.maximum or math.inf),
                -own.capacity_bytes,
                digest,
                -digest,
            ],
        )
        return SearchLimits(
            -int(capacity),
            headroom_ratio,
            own.prior if highest == -lowest else None,
            int(minimum),
            None if math.isinf(maximum) else -int(maximum),
        )

    def __call__(self, samples: int) -> ProbeResult:
        """Probe on every rank."""
        own = self._probe(samples)
        if self._trainer.world_size == 1:
            return own
        failed, thrashed, peak, seconds, resident, capacity, live, is_unknown = largest_of_ranks(
            self._trainer,
            [
                float(own.ran_out_of_memory),
                float(own.thrashed),
                own.peak_bytes,
                own.seconds_per_step or 0.0,
                -own.resident_bytes,
                -(own.capacity_bytes or 0),
                own.live_bytes,
                float(own.live_bytes == 0),
            ],
        )
        if failed:
            return ProbeResult(samples, capacity_bytes=-int(capacity), ran_out_of_memory=True)
        return ProbeResult(
            samples,
            int(peak),
            -int(resident),
            -int(capacity),
            seconds or None,
            thrashed=bool(thrashed),
            live_bytes=0 if is_unknown else int(live),
        )


def _digest(prior: MemoryEstimate | None) -> int:
    """Return a number that tells priors apart and that a float holds exactly."""
    return int.from_bytes(hashlib.sha256(repr(prior).encode()).digest()[:6])
