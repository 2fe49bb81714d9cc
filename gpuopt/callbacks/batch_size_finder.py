"""Find the batch size that fits the device, before the first step of a fit."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.utilities.exceptions import _TunerExitException

from gpuopt.callbacks.lock_step import LockStep, SearchLimits
from gpuopt.callbacks.module_probe import ModuleProbe
from gpuopt.choice import Choice
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.hardware import MEASURED_HEADROOM_RATIO
from gpuopt.memory.estimate import MemoryEstimate
from gpuopt.memory.finder import find_batch_size
from gpuopt.memory.finder_result import FinderResult
from gpuopt.memory.probe_meter import ProbeMeter, probe_meter_of
from gpuopt.steps.batch_parts import resized, sample_count
from gpuopt.steps.batch_size_setting import set_batch_size
from gpuopt.steps.plain_state import PlainState
from gpuopt.steps.sample_batch import data_objects, sample_batch
from gpuopt.steps.step_state import Generators
from gpuopt.steps.trainer_parts import data_module_of

__all__ = ["BatchSizeFinder"]

_log = logging.getLogger(__name__)

_HEADROOMS = (0.0, 0.9)


class BatchSizeFinder(L.Callback):
    """Measures the module with at most four batch sizes and sets the one to train with.

    Real steps run at the start of the fit, with batches that repeat a few samples of the data.
    Then weights, optimizer, buffers, random numbers, schedules and Lightning's counts are put
    back, so that the fit equals one that was given the size. With several ranks all use the size
    that fits the tightest of them, with the most headroom and the narrowest range that any has.

    Without a CUDA device nothing is measured and the batch size stays as it is.

    Args:
        take: `largest` batch that fits, or `knee`, the least with nearly the full throughput;
            with a `global_batch_size` the micro-batch that takes the least time for it.
        headroom_ratio: Share of the device's free memory to leave free, 0 to 0.9.
        minimum: Least batch of use.
        maximum: Largest batch of use; None for no limit.
        global_batch_size: Samples per optimizer step over all devices; the Trainer's accumulation
            is set as well. None leaves the accumulation alone.
        is_ragged: Whether the last micro-batch of a step may be smaller, as with gpuopt's data.
        batch_arg_name: Attribute of module, hyper-parameters or data module that holds the batch
            size; None takes `batch_size`, or else sets it in the loaders given to `fit`.
        set_batch_size: Sets it instead; called with the size.
        sample_batch: Makes a batch of about so many samples; None takes samples of the loaders.
        prior: Predicted memory, with which the first sizes are chosen better.
        meter: Reads the memory of the module's device; None takes CUDA's.
        steps: Training steps at each size; all but the first are timed.
        find_only: End the fit when the size is found and set.

    Attributes:
        result: What was found; None before, or without a device.
        choice: The size that was set, with its evidence.

    Raises:
        InputError: For values out of their range.
    """

    def __init__(
        self,
        *,
        take: Literal["largest", "knee"] = "largest",
        headroom_ratio: float = MEASURED_HEADROOM_RATIO,
        minimum: int = 1,
        maximum: int | None = None,
        global_batch_size: int | None = None,
        is_ragged: bool = False,
        batch_arg_name: str | None = None,
        set_batch_size: Callable[[int], None] | None = None,
        sample_batch: Callable[[int], Any] | None = None,
        prior: MemoryEstimate | None = None,
        meter: ProbeMeter | None = None,
        steps: int = 4,
        find_only: bool = False,
    ) -> None:
        _check(take, headroom_ratio, minimum, maximum)
        self.result: FinderResult | None = None
        self.choice: Choice | None = None
        self._take = take
        self._headroom_ratio = headroom_ratio
        self._minimum = minimum
        self._maximum = maximum
        self._global_batch_size = global_batch_size
        self._is_ragged = is_ragged
        self._batch_arg_name = batch_arg_name
        self._set_batch_size = set_batch_size
        self._sample_batch = sample_batch
        self._prior = prior
        self._meter = meter
        self._steps = steps
        self._find_only = find_only

    def summary(self) -> dict[str, Any] | None:
        """Return what was found as plain values."""
        return None if self.result is None else self.result.as_dict()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the size and set it.

        Raises:
            InputError: When the module cannot be measured, or where to set the size is unknown.
            TargetNotMetError: When the minimum does not fit.
        """
        meter = self._meter or probe_meter_of(pl_module.device)
        if meter is None:
            _log.info("no CUDA device: nothing is measured, the batch size stays as it is")
            return
        self.result = self._find(trainer, pl_module, meter)
        self._apply(trainer, pl_module, self.result)
        if self._find_only:
            raise _TunerExitException  # Lightning's own way to end a fit that was a search

    def _find(
        self, trainer: L.Trainer, module: L.LightningModule, meter: ProbeMeter
    ) -> FinderResult:
        generators = Generators.read(module.device)
        kept = [PlainState([module, data_module_of(trainer)], keeps_tensors=False)]
        try:
            batches = self._batches(trainer, kept)
            probe = ModuleProbe(
                trainer,
                module,
                lambda samples, stage: batches[stage](samples),
                meter,
                steps=self._steps,
                accumulates=lambda samples: self._accumulates(trainer, samples),
            )
            shared = LockStep(trainer, probe)
            limits = SearchLimits(
                meter.capacity_bytes(),
                self._headroom_ratio,
                self._prior,
                self._minimum,
                self._most(trainer),
            )
            limits = shared.strictest(limits)
            result = find_batch_size(shared, **vars(limits))
        finally:
            for state in reversed(kept):
                state.restore()
            generators.write()
        result.require(limits.minimum)
        return result

    def _accumulates(self, trainer: L.Trainer, samples: int) -> bool:
        if self._global_batch_size is None:
            return trainer.accumulate_grad_batches > 1
        return samples * trainer.world_size < self._global_batch_size

    def _most(self, trainer: L.Trainer) -> int | None:
        """Return the largest size of use: never more than a device's share of a global batch."""
        if self._global_batch_size is None:
            return self._maximum
        share = max(1, -(-self._global_batch_size // trainer.world_size), self._minimum)
        return share if self._maximum is None else min(share, self._maximum)

    def _batches(
        self, trainer: L.Trainer, kept: list[PlainState]
    ) -> dict[str, Callable[[int], Any]]:
        """Return what makes batches for training and validation."""
        pins = trainer.strategy.root_device.type == "cuda"
        loops: dict[str, Any] = {
            "train": trainer.fit_loop,
            "validate": trainer.fit_loop.epoch_loop.val_loop,
        }
        makers: dict[str, Callable[[int], Any]] = {}
        for stage, loop in loops.items():
            source = loop._data_source
            if stage == "validate" and not (trainer.enable_validation and source.is_defined()):
                continue
            if self._sample_batch is not None:
                batch = self._sample_batch(8)
                count = sample_count(batch)
            else:
                loaders = source.dataloader()
                if stage == "validate" and isinstance(loaders, Sequence):
                    loaders = loaders[0]
                kept.append(PlainState(data_objects(loaders), keeps_tensors=False))
                batch, count = sample_batch(loaders)
            makers[stage] = _repeating(batch, count, pins=pins)
        return makers

    def _apply(self, trainer: L.Trainer, module: L.LightningModule, result: FinderResult) -> None:
        size = result.largest if self._take == "largest" else result.knee
        if self._global_batch_size is not None:
            best = result.best_for(
                self._global_batch_size, trainer.world_size, is_ragged=self._is_ragged
            )
            size = best.micro_batch_size
            trainer.accumulate_grad_batches = best.accumulate_grad_batches
        if self._set_batch_size is not None:
            self._set_batch_size(size)
        else:
            set_batch_size(trainer, module, size, name=self._batch_arg_name)
        data = data_module_of(trainer)
        if self._global_batch_size is not None and isinstance(data, ImageDataModule):
            # A schedule may have cut their windows, as when a run goes on after a change.
            trainer.accumulate_grad_batches = data.accumulate_grad_batches(trainer.world_size)
        # Made already when somebody asked for the number of steps.
        fit_loop: Any = trainer.fit_loop
        fit_loop._combined_loader = fit_loop.epoch_loop.val_loop._combined_loader = None
        self.choice = result.choice(size)
        _log.info("%s", self.choice)


def _repeating(batch: Any, count: int, *, pins: bool) -> Callable[[int], Any]:
    return lambda samples: resized(batch, samples, count, pins=pins)


def _check(take: str, headroom_ratio: float, minimum: int, maximum: int | None) -> None:
    if take not in ("largest", "knee"):
        raise InputError(f"BatchSizeFinder: take={take} is neither largest nor knee")
    low, high = _HEADROOMS
    if not low <= headroom_ratio <= high:
        raise InputError(f"BatchSizeFinder: headroom_ratio={headroom_ratio} is not {low} to {high}")
    if minimum < 1 or (maximum is not None and maximum < minimum):
        raise InputError(
            f"BatchSizeFinder: minimum={minimum} and maximum={maximum} must be at least 1 and in "
            "this order"
        )
