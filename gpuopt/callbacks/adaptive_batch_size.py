"""Let the micro-batch follow the memory that is there, without a change of the result."""

import logging
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as L

from gpuopt.callbacks.oom_recovery import OomRecovery
from gpuopt.callbacks.split_steps import SplitSteps
from gpuopt.errors import InputError
from gpuopt.memory.meter import MemoryMeter, MemoryReading
from gpuopt.steps.size_rule import SizeRule
from gpuopt.steps.step_count import ends_step
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["AdaptiveBatchSize"]

_log = logging.getLogger(__name__)

# By how much more memory must be there than at a failure before its size is tried again at once.
_MORE_MEMORY = 1.1


class AdaptiveBatchSize(L.Callback):
    """Grows and shrinks the samples taken at a time, after each optimizer step, by measured memory.

    The loader's batch stays as it is: a step takes it in more or fewer parts, with the gradients
    of the whole (see `OomRecovery`, whose refusals and warnings hold here as well, and which this
    one shares its work with where both are there). So the loader's batch is the largest size. To
    merge several of them is not possible, because Lightning asks for each one's loss and gradient
    before it loads the next; let the loader's batch be large and begin with a small `initial`.

    What counts is the peak of this process's tensors, as a share of what it can fill: its own
    memory and what is free beside it, so that other processes are made room for. A batch that
    does not fit all the same, because another process was faster, is tried again in smaller parts.

    Without a device whose memory can be read, such as a CPU, `initial` stays, which is said.

    Args:
        initial: Samples at a time to begin with; None: the loader's batch.
        maximum: Largest number of samples at a time; None: the loader's batch.
        target_ratio: Share of the memory that this process can fill; sizes whose peak is predicted
            above it are not taken, and one whose peak is measured 2 % above it is left.
        growth_ratio: By what the size grows at most in one change, above 1.
        meter: Reads the device's memory; None takes what the module's device offers.

    Attributes:
        peak_reserved_bytes: Most that the allocator has held, for whoever reports it: measuring a
            step makes the device forget it.

    Raises:
        InputError: When the arguments contradict each other.
    """

    def __init__(
        self,
        initial: int | None = None,
        maximum: int | None = None,
        target_ratio: float = 0.85,
        growth_ratio: float = 1.5,
        meter: MemoryMeter | None = None,
    ) -> None:
        _check(initial, maximum, target_ratio, growth_ratio)
        self.peak_reserved_bytes = 0
        self._initial = initial
        self._maximum = maximum
        self._rule = SizeRule(target_ratio, growth_ratio, maximum)
        self._own_steps = SplitSteps("AdaptiveBatchSize", "adaptive_batch_size", 200, meter)
        self._steps = self._own_steps
        self._given_meter = meter
        self._is_resumed = False
        self._available_at_failure = 0  # the last one
        # Of the step under way: begun, with a part of the full size, with a failure or validation.
        self._is_window_open = False
        self._has_whole_part = False
        self._has_failed = False
        self._has_validated = False
        self._rank = 0

    @property
    def events(self) -> list[dict[str, Any]]:
        """The adaptations, in order; where no `OomRecovery` is there, also what it would note."""
        entries = self._steps.all_events()
        return [e for e in entries if self._is_alone or e["event"] == "adapt"]

    def summary(self) -> dict[str, Any]:
        """Return the events, the last size, and what a sample was measured to take."""
        per_sample = self._steps.fit.bytes_per_sample
        return {
            "events": self.events,
            "final_micro_batch_size": self._steps.sizes["training"].current,
            "bytes_per_sample": None if per_sample is None else round(per_sample),
        }

    def state_dict(self) -> dict[str, Any]:
        """Remember what was measured, so that a resumed run goes on as this one does."""
        own = self._own_steps.state() if self._is_alone else None
        return {"steps": own, "fit": self._steps.fit.state(), "at": self._available_at_failure}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint remembers."""
        if state_dict["steps"] is not None:
            self._own_steps.load(state_dict["steps"], self._rank)
        self._steps.fit.load(state_dict["fit"])
        self._available_at_failure = state_dict["at"]
        self._is_resumed = True

    # --- the life of a run -------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Bind to the module, or join the callback that does.

        Raises:
            InputError: When splitting could not be exact or safe.
        """
        self._rank = trainer.global_rank
        recovery = next((c for c in callbacks_of(trainer) if isinstance(c, OomRecovery)), None)
        self._steps = self._own_steps if recovery is None else recovery.steps
        if self._is_alone:
            self._steps.bind(trainer, pl_module, stage)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the module and its device, which are complete by now."""
        if self._is_alone:
            self._steps.begin_fit()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the first size."""
        if self._is_alone:
            self._steps.begin_training()
        elif self._given_meter is not None:
            self._steps.use_meter(self._given_meter)
        self._is_window_open = False
        sizes = self._steps.sizes["training"]
        sizes.first, sizes.ceiling = self._initial, self._maximum
        sizes.is_measured = self._steps.meter is not None
        if self._initial is not None and not self._is_resumed:
            sizes.limit = self._initial
        if self._steps.meter is None:
            sizes.ceiling = self._initial or self._maximum
            _log.warning(
                "the memory of a %s cannot be measured: the micro-batch stays at %s",
                trainer.strategy.root_device.type,
                sizes.ceiling or "that of the loader",
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look anew at how large the batches are."""
        if self._is_alone:
            self._steps.begin_epoch()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to measure a step."""
        if self._is_window_open:
            return
        self._is_window_open = True
        self._has_whole_part = self._has_failed = self._has_validated = False
        if self._steps.meter is not None:
            self._steps.meter.start_peak()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave out a step that validation comes in the middle of."""
        self._has_validated = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure a step that went well, and change the size when memory says so."""
        if self._is_alone:
            self._steps.end_batch(outputs)
        steps = self._steps
        # A step's last batch may be smaller than the others.
        is_relieved = steps.relieve_thrash()  # before the size is adapted, whoever comes first
        self._has_whole_part |= steps.last_part == steps.sizes["training"].part
        self._has_failed |= is_relieved or not steps.is_undisturbed
        if ends_step(trainer):
            self._is_window_open = False
            if steps.meter is not None:
                self._adapt(steps.meter.read())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what happened on other ranks."""
        if self._is_alone:
            self._steps.end_training()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the module back when a run fails."""
        if self._is_alone:
            self._steps.end_by(exception)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the module back."""
        if self._is_alone:
            self._steps.undo()

    def standing_aside(self) -> AbstractContextManager[None]:
        """Let errors of memory pass for a while, for who wants to see them."""
        return self._own_steps.standing_aside()

    # --- adaptation --------------------------------------------------------------------------

    @property
    def _is_alone(self) -> bool:
        return self._steps is self._own_steps

    def _adapt(self, reading: MemoryReading) -> None:
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, reading.peak_reserved_bytes)
        steps, sizes = self._steps, self._steps.sizes["training"]
        if self._has_failed:
            self._available_at_failure = reading.available_bytes
            return
        if self._has_validated or not self._has_whole_part:  # or the epoch's last, smaller one
            return
        part = sizes.part
        steps.fit.note(part, reading.peak_bytes, reading.allocated_bytes)
        has_more = reading.available_bytes > _MORE_MEMORY * self._available_at_failure > 0
        size = self._rule.next_size(
            sizes.largest,
            part,
            steps.fit,
            reading.available_bytes,
            lambda candidate: not has_more and sizes.is_barred(candidate),
        )
        if size != part:
            self._change(part, size, reading)

    def _change(self, part: int, size: int, reading: MemoryReading) -> None:
        fit, sizes = self._steps.fit, self._steps.sizes["training"]
        peak, expected = fit.measured(part) or 0, fit.peak_of(size) or 0.0
        available = reading.available_bytes
        _log.info(
            "micro-batch %d -> %d (measured: %d took %s, %.0f %% of the %s available; %d are "
            "expected to take %s)",
            part,
            size,
            part,
            _in_gib(peak),
            100 * peak / available,
            _in_gib(available),
            size,
            _in_gib(expected),
        )
        sizes.change(size)
        self._steps.events.note(
            self._steps.trainer,
            "adapt",
            "training",
            part,
            size,
            peak_bytes=peak,
            available_bytes=available,
            expected_bytes=round(expected),
        )


def _check(initial: int | None, maximum: int | None, target: float, growth: float) -> None:
    """Refuse what could not work; gpuopt's own limits name the keys before that."""
    key = "callbacks.adaptive_batch_size"
    if not 0 < target <= 1:
        raise InputError(f"{key}.target_ratio={target} is no share: give 0.1 to 1, such as 0.85")
    if not growth > 1:
        raise InputError(f"{key}.growth_ratio={growth} would never grow: give more than 1")
    for name, value in (("initial", initial), ("maximum", maximum)):
        if value is not None and value < 1:
            raise InputError(f"{key}.{name}={value}: give at least 1 sample")
    if initial is not None and maximum is not None and initial > maximum:
        raise InputError(f"{key}.initial={initial} is above {key}.maximum={maximum}")


def _in_gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
