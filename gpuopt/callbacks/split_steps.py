"""The one owner of a module's steps, for all callbacks that change how much is taken at a time."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L

from gpuopt.callbacks.give_up import UNSAVED, save_step_start
from gpuopt.errors import FaultError
from gpuopt.memory.batch_dependence import depends_on_batch
from gpuopt.memory.device_errors import free_memory, is_out_of_memory
from gpuopt.memory.meter import MemoryMeter, meter_of
from gpuopt.memory.peak_fit import PeakFit
from gpuopt.steps.compiled_part import drop_graphs
from gpuopt.steps.memory_events import MemoryEvents
from gpuopt.steps.memory_report import write_memory_report
from gpuopt.steps.optimizer_state import make_state, try_update_memory, writes_so_far
from gpuopt.steps.split_evaluation import SplitEvaluation
from gpuopt.steps.split_refusal import refuse, refuse_optimizers
from gpuopt.steps.split_size import SplitSize
from gpuopt.steps.split_step import Binding, is_fit_for
from gpuopt.steps.split_training import SplitTraining
from gpuopt.steps.step_count import ends_step, steps_done
from gpuopt.steps.thrash_watch import ThrashWatch

__all__ = ["SplitSteps"]

_log = logging.getLogger(__name__)


class SplitSteps:
    """Takes the place of a module's steps, which then may take their batch in parts.

    `OomRecovery` and `AdaptiveBatchSize` are two ways to choose the parts' size; where both are
    there, both work on one of these, and the first one drives it.

    Args:
        owner: Name of the callback, for refusals.
        key: Its setting in gpuopt's configuration.
        grow_after_batches: See `SplitSize`.
        meter: Reads the device's memory; None takes what the module's device offers.

    Attributes:
        events: What happened.
        sizes: How many samples at a time, in `training` and `evaluation`.
        meter: None where memory cannot be read.
        fit: Measured peaks of training, if somebody measures them.
    """

    def __init__(
        self, owner: str, key: str, grow_after_batches: int, meter: MemoryMeter | None = None
    ) -> None:
        self.events = MemoryEvents()
        self.sizes = {
            "training": SplitSize(grow_after_batches),
            "evaluation": SplitSize(grow_after_batches),
        }
        self.meter = meter
        self.fit = PeakFit()
        self._given_meter = meter
        self._owner, self._key = owner, key
        self._training: SplitTraining | None = None
        self._evaluation: SplitEvaluation | None = None
        self._optimizer_step: Binding | None = None
        self._thrash: ThrashWatch | None = None
        self._trainer: L.Trainer | None = None
        self._has_warned = False
        self._is_resumed = False
        self._is_update_tried = False
        # The batch after which thrash was looked for, by epoch and index, and whether it was found.
        self._looked_after = (-1, -1)
        self._is_relieved = False

    @property
    def trainer(self) -> L.Trainer:
        """The Trainer that runs the module."""
        assert self._trainer is not None
        return self._trainer

    @property
    def last_part(self) -> int:
        """How many samples the newest training batch was taken at a time; 0 before the first."""
        return self._training.part if self._training is not None else 0

    @property
    def is_undisturbed(self) -> bool:
        """Whether the newest training batch was taken without a failure."""
        return self._training is not None and self._training.is_undisturbed

    def state(self) -> dict[str, Any]:
        """Return what `load` takes, as plain values."""
        sizes = {name: size.state() for name, size in self.sizes.items()}
        return {"events": list(self.events.entries), "sizes": sizes}

    def load(self, state: dict[str, Any], rank: int = 0) -> None:
        """Go on where another has stopped; of its events those of this rank count."""
        entries = state["events"]
        self.events.entries[:] = [event for event in entries if event.get("rank", 0) == rank]
        self._is_resumed = True
        for name, size in state["sizes"].items():
            self.sizes[name].load(size)

    def all_events(self) -> list[dict[str, Any]]:
        """Return the events of all ranks as far as they are known here."""
        if self._trainer is None:
            return list(self.events.entries)
        return self.events.of_all_ranks(self._trainer)

    # --- the life of a run -------------------------------------------------------------------

    def bind(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Take the place of the module's steps.

        Raises:
            InputError: When splitting could not be exact or safe.
        """
        self.undo()
        self._trainer = trainer
        for size in self.sizes.values():
            size.begin_epoch()
        self._evaluation = SplitEvaluation(trainer, module, self.sizes["evaluation"], self)
        if stage == "fit":
            refuse(self._owner, self._key, trainer, module)
            training = self.sizes["training"]
            training.first, training.ceiling, training.is_measured = None, None, False
            self._training = SplitTraining(trainer, module, self.sizes["training"], self)
            self._training.bind()
            self._optimizer_step = Binding(module)
            self._optimizer_step.put("optimizer_step", self._guarded)
        self._evaluation.bind()

    def begin_fit(self) -> None:
        """Look at the module, its optimizer and its device, which are complete by now."""
        refuse_optimizers(self._owner, self._key, self.trainer)
        self.meter, self._thrash = None, None
        meter = self._given_meter or meter_of(self.trainer.strategy.root_device)
        if meter is not None:
            self.meter, self._thrash = meter, ThrashWatch(meter)
        if self._training is not None:
            self._training.start()

    def use_meter(self, meter: MemoryMeter) -> None:
        """Read the device's memory by that from now on."""
        self.meter, self._thrash = meter, ThrashWatch(meter)

    def begin_training(self) -> None:
        """Let the optimizer take its memory before the first batch does.

        Raises:
            FaultError: When there is not enough for it.
        """
        self._is_update_tried, self._looked_after = False, (-1, -1)
        self.events.begin(self.trainer, is_resumed=self._is_resumed)
        self._is_resumed = False
        if self.sizes["training"].limit is not None:  # of a checkpoint
            self._end_graphs()

        def make_all() -> None:
            for optimizer in self.trainer.optimizers:
                make_state(optimizer)

        if not is_fit_for(make_all):
            free_memory()
            self._note("give_up", "optimizer's first state", 0, 0)
            self._report("optimizer's first state")
            raise FaultError(
                "the device has no memory for the optimizer's state: free memory on it, take "
                "another device, or a smaller model"
            )

    def begin_epoch(self) -> None:
        """Look anew at how large training's batches are."""
        self.sizes["training"].begin_epoch()

    def end_batch(self, outputs: Any) -> None:
        """Count a batch, and look for thrash at the end of a step."""
        if self._training is None:
            return
        self.relieve_thrash()  # first: what grows now was not taken in the step that ends
        self._training.correct(outputs)

    def relieve_thrash(self) -> bool:
        """Look for thrash at the end of a step, and halve the size that the step was taken in.

        To ask again after the same batch changes nothing.

        Returns:
            Whether the size was halved.
        """
        here = (self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx)
        if here == self._looked_after:
            return self._is_relieved
        self._looked_after, self._is_relieved = here, False
        if self._training is not None and self._thrash is not None and ends_step(self.trainer):
            if not self._training.is_undisturbed:  # a failure is counted by itself
                self._thrash.start_anew()
            elif self._thrash.is_thrashing():
                self._is_relieved = self._relieve()
        return self._is_relieved

    def end_training(self) -> None:
        """Log the other ranks' events."""
        self.events.log_others(self.trainer)

    def end_by(self, error: BaseException) -> None:
        """Report where memory ran out outside of what can be split, and give the module back."""
        if self._training is not None and is_out_of_memory(error):
            self._report("rest of training")
        self.undo()

    @contextlib.contextmanager
    def standing_aside(self) -> Iterator[None]:
        """Let the module have its own steps for a while, so that errors of memory show."""
        with contextlib.ExitStack() as lifted:
            for part in (self._optimizer_step, self._evaluation, self._training):
                if part is not None:
                    lifted.enter_context(part.lifted())
            yield

    def undo(self) -> None:
        """Give the module back."""
        for part in (self._training, self._evaluation, self._optimizer_step):
            if part is not None:
                part.undo()
        self._training = self._evaluation = self._optimizer_step = None

    # --- what the steps report ---------------------------------------------------------------

    def shrunk(self, phase: str, count: int, size: int) -> None:
        """Note a failure."""
        _log.warning(
            "out of memory in the %s with %d samples at step %d: going on with %d at a time",
            phase,
            count,
            self._step,
            size,
        )
        self._is_update_tried = False
        self._note("out_of_memory", phase, count, size)
        if self.sizes["training"].limit is not None:
            self._end_graphs()

    def _end_graphs(self) -> None:
        """Let nothing run in CUDA graphs any more: they cannot add up the gradients of parts."""
        if drop_graphs(self.trainer.lightning_module):
            _log.warning("batches are taken in parts: compiled code runs without CUDA graphs now")

    def grown(self, phase: str, size: int) -> None:
        """Note that a larger size is tried."""
        _log.info("%s goes well: trying %d samples at a time", phase, size)
        self._note("grow", phase, size, size)

    def lost(self, names: list[str]) -> None:
        """Say what a failed attempt has changed for good."""
        if names:
            _log.warning(
                "the failed attempt has changed %s for good", ", ".join(sorted(set(names)))
            )

    def give_up(self, phase: str, *, may_save: bool) -> FaultError:
        """Note that a single sample does not fit, report, and save what there is."""
        self._note("give_up", phase, 1, 1)
        step, table = self._step, self._report(phase)
        saved = self._save() if may_save else UNSAVED
        return FaultError(
            f"the device ran out of memory in the {phase} with 1 sample at step {step}; {saved}; "
            f"{table}: free memory on it or take another device, then resume"
        )

    def is_split(self) -> None:
        """Say once of which networks the result depends on the size."""
        if self._has_warned:
            return
        self._has_warned = True
        names = {type(part).__name__ for part in depends_on_batch(self.trainer.lightning_module)}
        if names:
            _log.warning(
                "with %s the result is that of a run with the smaller micro-batch, no longer that "
                "of the one asked for",
                ", ".join(sorted(names)),
            )

    @property
    def _step(self) -> int:
        return steps_done(self.trainer)

    def _note(self, kind: str, phase: str, samples: int, size: int) -> None:
        self.events.note(self.trainer, kind, phase, samples, size)

    def _relieve(self) -> bool:
        """Halve the size before an allocator that thrashes finds nothing at all."""
        sizes = self.sizes["training"]
        part = sizes.part
        if part <= 1:
            return False
        size = sizes.failed(part)
        _log.warning(
            "the allocator had to give back its cache in two steps in a row (thrash), at step %d "
            "with %d samples: going on with %d at a time",
            self._step,
            part,
            size,
        )
        self._is_update_tried = False
        self._note("thrash", "training", part, size)
        free_memory()
        return True

    # --- the end -----------------------------------------------------------------------------

    def _guarded(self, method: Any) -> Any:
        """Wrap `optimizer_step`: what runs out of memory in there cannot be split."""

        def optimizer_step(*args: Any, **options: Any) -> Any:
            epoch, batch_index, wrapped, *rest = args
            optimizer = getattr(wrapped, "optimizer", wrapped)
            # Until the closure has ended, and gradients are there, no update can have begun.
            before = [] if rest else [writes_so_far(optimizer)]
            if rest:
                rest[0] = self._preceding_update(rest[0], optimizer, before)
            outputs: list[Any] = []

            def run() -> None:
                outputs.append(method(epoch, batch_index, wrapped, *rest, **options))

            if is_fit_for(run):
                return outputs[0]
            is_untouched = not before or before[-1] == writes_so_far(optimizer)
            raise self._fail_in_optimizer(is_untouched=is_untouched)

        return optimizer_step

    def _preceding_update(self, closure: Any, optimizer: Any, before: list[list[int]]) -> Any:
        """Let a closure, which ends with the gradients, look at what the update will need."""

        def run() -> Any:
            result = closure()
            before.append(writes_so_far(optimizer))
            if not self._is_update_tried:
                try_update_memory(optimizer)
                self._is_update_tried = True
            return result

        return run

    def _fail_in_optimizer(self, *, is_untouched: bool) -> FaultError:
        free_memory()
        self._note("give_up", "optimizer step", 0, self.sizes["training"].current)
        step, table = self._step, self._report("optimizer step")
        saved = self._save() if self.trainer.world_size == 1 and is_untouched else UNSAVED
        return FaultError(
            f"the device ran out of memory in the optimizer's step {step}; {saved}; {table}: "
            "resume with a smaller micro_batch_size"
        )

    def _report(self, phase: str) -> str:
        path = write_memory_report(
            self.trainer,
            self.meter,
            {"phase": phase, "epoch": self.trainer.current_epoch, "step": self._step},
            activations_per_sample=self.fit.bytes_per_sample,
        )
        return "its memory could not be reported" if path is None else f"who holds it: {path}"

    def _save(self) -> str:
        assert self._training is not None
        self.sizes["training"].forget()  # a resume comes when there is memory again
        self._training.return_to_window_start()
        return save_step_start(self.trainer)
