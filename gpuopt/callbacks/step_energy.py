"""The energy of the training steps alone, from readings that were taken beside them."""

from collections import deque
from collections.abc import Sequence

from gpuopt.telemetry import Sampler

__all__ = ["StepEnergy"]

_WAITING = 1024  # stretches; those that never become known leave at the other end


class StepEnergy:
    """Adds up the joules of stretches of steps, once the readings after their end are there.

    Args:
        sampler: Reads the devices; its clock is `time.monotonic`.
        indices: The devices that train here.
        share: Which share of all samples they train, 0 to 1.

    Attributes:
        used_j: Of all stretches that are known.
        samples: Of them, as many as the devices trained.
    """

    def __init__(self, sampler: Sampler, indices: Sequence[int], share: float) -> None:
        self.used_j = 0.0
        self.samples = 0.0
        self._sampler = sampler
        self._indices = tuple(indices)
        self._share = share
        self._waiting: deque[tuple[float, float, int]] = deque(maxlen=_WAITING)

    def add(self, began_s: float, ended_s: float, samples: int) -> None:
        """Note a stretch of steps.

        Args:
            began_s: Of the monotonic clock.
            ended_s: The same.
            samples: Of all devices.
        """
        self._waiting.append((began_s, ended_s, samples))

    def settle(self) -> float | None:
        """Take in the stretches whose energy has become known.

        Returns:
            Their joules per sample; None without any. A device that does not tell its energy
            makes that of all unknown.
        """
        newest = self._sampler.latest()
        if newest is None or not self._indices:
            return None
        used_j = samples = 0.0
        still: list[tuple[float, float, int]] = []
        for began_s, ended_s, count in self._waiting:
            found = [self._sampler.used_j_between(i, began_s, ended_s) for i in self._indices]
            known = [joules for joules in found if joules is not None]
            if len(known) == len(found):
                used_j += sum(known)
                samples += count * self._share
            else:
                still.append((began_s, ended_s, count))
        self._waiting = deque(still, maxlen=_WAITING)
        self.used_j += used_j
        self.samples += samples
        return used_j / samples if samples > 0 else None

    @property
    def joules_per_sample(self) -> float | None:
        """Of all stretches that are known; None without any."""
        return self.used_j / self.samples if self.samples > 0 else None
