"""Go on when memory runs out: the same batch again in smaller parts, with the same gradients."""

from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as L

from gpuopt.callbacks.split_steps import SplitSteps
from gpuopt.memory.meter import MemoryMeter

__all__ = ["OomRecovery"]


class OomRecovery(L.Callback):
    """Splits a batch that does not fit the memory, retries it, and goes on.

    The optimizer sees the same gradients, for losses that are means over samples or that the
    batch's own weights make up; other losses are refused when a batch has to be split. Networks
    with BatchNorm or dropout become those of a run at the smaller size, which is said once.
    Scaling, clipping, accumulation, schedules and logging stay Lightning's. An allocator that
    finds memory only by giving back its cache, two steps in a row, counts as a failure to come.

    Hooks between a forward pass and its backward pass count once, also where that fails. While
    gradients accumulate, networks with BatchNorm or dropout hold those of the running pass beside
    those of the earlier ones, for otherwise a failed pass could not be taken back.

    When a single sample does not fit, and when the optimizer's own step does not, the run ends
    with `FaultError`, a table of who holds the memory (`out_of_memory.json` in the Trainer's
    folder, on CUDA beside the allocator's `memory_snapshot.pickle`) and, where the process trains
    alone and a resume is exact, a checkpoint of the state before that step.

    Several ranks each split by themselves; none waits for another. There a backward pass that
    fails goes on with the gradients that are missing, since complete ones may have been sent.
    The others' checkpoint would take part of all ranks, so the last one stands. Each keeps its
    events in `memory_events.rankN.json` in the Trainer's folder, from where a resume takes them.

    Args:
        grow_after_batches: Batches without a failure after which twice the size is tried again.
        meter: Reads the device's memory; None takes what the module's device offers.

    Attributes:
        steps: What does the work; `AdaptiveBatchSize` joins it.
    """

    def __init__(self, grow_after_batches: int = 200, meter: MemoryMeter | None = None) -> None:
        self.steps = SplitSteps("OomRecovery", "oom_recovery", grow_after_batches, meter)
        self._rank = 0

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened on all ranks, in order, as plain values.

        Adaptations are `AdaptiveBatchSize`'s. Of other ranks it is what they have written so far.
        """
        return [event for event in self.steps.all_events() if event["event"] != "adapt"]

    def summary(self) -> dict[str, Any]:
        """Return the events and how many samples were taken at a time in the end."""
        return {
            "events": self.events,
            "final_micro_batch_size": self.steps.sizes["training"].current,
        }

    def state_dict(self) -> dict[str, Any]:
        """Remember events and sizes, so that a resumed run goes on as this one does."""
        return self.steps.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take events and sizes over from a checkpoint."""
        self.steps.load(state_dict, self._rank)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Bind to the module.

        Raises:
            InputError: When recovery could not be exact or safe.
        """
        self._rank = trainer.global_rank
        self.steps.bind(trainer, pl_module, stage)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the module and its optimizer, which are complete by now."""
        self.steps.begin_fit()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the optimizer take its memory before the first batch does."""
        self.steps.begin_training()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look anew at how large the batches are."""
        self.steps.begin_epoch()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch."""
        self.steps.end_batch(outputs)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what happened on other ranks."""
        self.steps.end_training()

    def standing_aside(self) -> AbstractContextManager[None]:
        """Let errors of memory pass for a while, for who wants to see them."""
        return self.steps.standing_aside()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the module back when a run fails."""
        self.steps.end_by(exception)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the module back."""
        self.steps.undo()
