"""What a training step is made of, from the times of steps that leave more and more of it out.

Each rung of the ladder leaves out one thing that the rung before it did; what the two differ by is
what that thing takes. So no part is timed inside of a step, which would stop the overlap of host
and device that is to be seen, and the parts add up to the step. A step that leaves more out cannot
take longer: where noise says so, the rungs are taken together (isotonic regression). What disturbs
a machine only adds time, so of all rounds the lower quartile counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from gpuopt.measure.device_work import DeviceWork
from gpuopt.measure.interval import Interval

__all__ = ["LADDER", "PARTS", "MeasuredSteps", "StepParts"]

LADDER = (
    "real",
    "in_memory",
    "on_device",
    "prepared",
    "quiet",
    "no_optimizer",
    "no_backward",
    "empty",
)
"""Rungs: the real step; its batch from host memory; already on the device; already prepared there;
without callbacks and loggers; without the optimizer; without the backward pass; without the
forward pass. A rung that cannot be told from the one before, such as `on_device` on a CPU, may be
missing."""

PARTS = {
    "data wait": "in_memory",
    "copy to the device": "on_device",
    "batch preparation": "prepared",
    "callbacks": "quiet",
    "optimizer": "no_optimizer",
    "backward": "no_backward",
    "forward": "empty",
}
"""By part, the first rung that is without it; `loop` is what the last rung still takes."""

_LOOP = "loop"
_RESAMPLES = 1000
_LEVEL = 0.95
_QUANTILE = 0.25


@dataclass(frozen=True)
class StepParts:
    """Times of steps, measured in turns.

    Attributes:
        rounds_ms: Mean step by rung in milliseconds, one figure per round; the i-th figures of all
            rungs were taken in the same round. May hold further steps beside those of `LADDER`.
        samples_per_step: Samples of an optimizer step.
    """

    rounds_ms: Mapping[str, Sequence[float]]
    samples_per_step: float

    @property
    def step_ms(self) -> Interval:
        """The real step."""
        return self.combined({"real": 1.0})

    @property
    def samples_per_second(self) -> float:
        """Throughput of real steps."""
        return 1000.0 * self.samples_per_step / self.step_ms.value

    def rungs(self) -> list[str]:
        """List the rungs that were measured, in order."""
        return [rung for rung in LADDER if rung in self.rounds_ms]

    def parts_ms(self) -> dict[str, Interval]:
        """Return what each part takes, none below 0."""
        rungs = self.rungs()
        parts = {}
        for part, without in PARTS.items():
            if without in rungs:
                before = rungs[rungs.index(without) - 1]
                parts[part] = self.difference_ms(before, without)
        parts[_LOOP] = self.combined({rungs[-1]: 1.0})
        return parts

    def closure_ratio(self) -> float:
        """Return (sum of all parts) / (step as timed); far from 1 the noise was too large."""
        total_ms = sum(part.value for part in self.parts_ms().values())
        return total_ms / float(np.quantile(self.rounds_ms["real"], _QUANTILE))

    def difference_ms(self, slower: str, quicker: str) -> Interval:
        """Return by how much one step takes longer than another."""
        return self.combined({slower: 1.0, quicker: -1.0})

    def combined(self, weights: Mapping[str, float]) -> Interval:
        """Return a weighted sum of steps in milliseconds.

        Args:
            weights: By rung.
        """
        return _interval(lambda quartiles: _weighted(quartiles, weights), self._quartiles)

    def gain_of(
        self, weights: Mapping[str, float], *, less_ms: float = 0.0, most_ms: float | None = None
    ) -> Interval:
        """Return how many more samples per second there are without something, as a share.

        Args:
            weights: Of what is removed, by rung; see `combined`.
            less_ms: What of it cannot be removed.
            most_ms: Removing it can save no more than this.
        """

        def gain(quartiles: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
            step, saved = quartiles["real"], _weighted(quartiles, weights) - less_ms
            if most_ms is not None:
                saved = np.minimum(saved, most_ms)
            saved = np.maximum(saved, 0.0)
            # At least a hundredth is left: noise must not make the gain infinite.
            return np.asarray(step / np.maximum(step - saved, 0.01 * step) - 1.0)

        return _interval(gain, self._quartiles)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "step_ms": self.step_ms.as_dict(),
            "samples_per_step": self.samples_per_step,
            "samples_per_second": self.samples_per_second,
            "parts_ms": {name: part.as_dict() for name, part in self.parts_ms().items()},
            "parts_sum_ratio": self.closure_ratio(),
            "rounds_ms": {name: list(values) for name, values in self.rounds_ms.items()},
        }

    @cached_property
    def _quartiles(self) -> dict[str, NDArray[np.float64]]:
        """Return the quartile by rung: of all rounds first, then of rounds drawn at random.

        All rungs are drawn in the same rounds, so that what disturbs a whole round cancels.
        """
        count = len(self.rounds_ms["real"])
        rows = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
        rows = np.concatenate((np.arange(count)[None], rows))
        quartiles = {
            rung: np.quantile(np.asarray(values, dtype=np.float64)[rows], _QUANTILE, axis=1)
            for rung, values in self.rounds_ms.items()
        }
        rungs = self.rungs()
        ladder = np.stack([quartiles[rung] for rung in rungs], axis=1)
        falling = np.stack([isotonic_regression(row, increasing=False).x for row in ladder])
        return {**quartiles, **dict(zip(rungs, falling.T, strict=True))}


@dataclass(frozen=True)
class MeasuredSteps:
    """Everything that was measured about the steps of a training.

    Attributes:
        parts: Beside the ladder the steps `sized` (as `no_optimizer`, another batch size) and,
            where the optimizer has a fused form, `optimizer` and `fused_optimizer` alone.
        micro_batch_size: Samples of a batch.
        sized_ratio: Samples of a batch of `sized` / `micro_batch_size`.
        loads_ms: Milliseconds in which the loader alone gives the batches of a step, by round.
        num_workers: Processes of the loader.
        work: What the device did in steps `prepared`; None where that cannot be told.
        quiet_work: The same in steps `quiet`.
    """

    parts: StepParts
    micro_batch_size: int
    sized_ratio: float
    loads_ms: Sequence[float]
    num_workers: int = 0
    work: DeviceWork | None = None
    quiet_work: DeviceWork | None = None

    @property
    def batches_per_step(self) -> float:
        """Batches of an optimizer step."""
        return self.parts.samples_per_step / self.micro_batch_size


def _weighted(
    quartiles: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float]
) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.zeros(_RESAMPLES + 1)
    for rung, weight in weights.items():
        total = total + weight * quartiles[rung]
    return total


def _interval(
    figure: Callable[[Mapping[str, NDArray[np.float64]]], NDArray[np.float64]],
    quartiles: Mapping[str, NDArray[np.float64]],
) -> Interval:
    values = figure(quartiles)
    tail = (1.0 - _LEVEL) / 2.0
    low, high = np.quantile(values[1:], (tail, 1.0 - tail))
    return Interval(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))
