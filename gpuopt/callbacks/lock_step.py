"""A probe that several ranks run together, each seeing what the tightest of them saw."""

from collections.abc import Callable

import lightning.pytorch as L

from gpuopt.callbacks.agreement import largest_of_ranks
from gpuopt.memory.probe_result import ProbeResult

__all__ = ["LockStep"]


class LockStep:
    """Runs a probe and agrees on its result.

    With equal results every rank searches the same sizes and finds the same one, which is the
    least of what the ranks would have found. A rank that runs out of memory answers like the
    others, so none waits in vain.

    Args:
        trainer: Knows the ranks.
        probe: Of this rank alone.
    """

    def __init__(self, trainer: L.Trainer, probe: Callable[[int], ProbeResult]) -> None:
        self._trainer = trainer
        self._probe = probe

    def least(self, number: int) -> int:
        """Return the least of a number over all ranks."""
        return -int(largest_of_ranks(self._trainer, [-number])[0])

    def __call__(self, samples: int) -> ProbeResult:
        """Probe on every rank."""
        own = self._probe(samples)
        if self._trainer.world_size == 1:
            return own
        failed, thrashed, peak, seconds, resident, capacity = largest_of_ranks(
            self._trainer,
            [
                float(own.ran_out_of_memory),
                float(own.thrashed),
                own.peak_bytes,
                own.seconds_per_step or 0.0,
                -own.resident_bytes,
                -(own.capacity_bytes or 0),
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
        )
