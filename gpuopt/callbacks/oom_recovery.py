"""Go on when memory runs out: the same batch again in smaller parts, with the same gradients."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn
from torch.optim import LBFGS

from gpuopt.callbacks.durable_checkpoint import DurableCheckpoint
from gpuopt.callbacks.optimizer_state import make_state, writes_so_far
from gpuopt.callbacks.split_evaluation import SplitEvaluation
from gpuopt.callbacks.split_rule import depends_on_batch
from gpuopt.callbacks.split_size import SplitSize
from gpuopt.callbacks.split_step import Binding, is_fit_for
from gpuopt.callbacks.split_training import SplitTraining
from gpuopt.callbacks.step_count import steps_done
from gpuopt.callbacks.window_start import go_to_window_start
from gpuopt.errors import FaultError, InputError
from gpuopt.memory.device_errors import free_memory

__all__ = ["OomRecovery"]

_log = logging.getLogger(__name__)

_UNSAVED = "the last checkpoint stands"


class OomRecovery(L.Callback):
    """Splits a batch that does not fit the memory, retries it, and goes on.

    The optimizer sees the same gradients, for losses that are means over samples or that the
    batch's own weights make up; other losses are refused when a batch has to be split. Networks
    with BatchNorm or dropout become those of a run at the smaller size, which is said once.
    Scaling, clipping, accumulation, schedules and logging stay Lightning's.

    Several ranks each split by themselves; none waits for another. There a backward pass that
    fails goes on with the gradients that are missing, since complete ones may have been sent.

    Args:
        grow_after_batches: Batches without a failure after which twice the size is tried again.

    Attributes:
        events: What happened, in order, as plain values.
    """

    def __init__(self, grow_after_batches: int = 200) -> None:
        self.events: list[dict[str, Any]] = []
        self._sizes = {
            "training": SplitSize(grow_after_batches),
            "evaluation": SplitSize(grow_after_batches),
        }
        self._training: SplitTraining | None = None
        self._evaluation: SplitEvaluation | None = None
        self._optimizer_step: Binding | None = None
        self._trainer: L.Trainer | None = None
        self._has_warned = False

    def summary(self) -> dict[str, Any]:
        """Return the events and how many samples were taken at a time in the end."""
        return {"events": self.events, "final_micro_batch_size": self._sizes["training"].current}

    def state_dict(self) -> dict[str, Any]:
        """Remember events and sizes, so that a resumed run goes on as this one does."""
        sizes = {name: size.state() for name, size in self._sizes.items()}
        return {"events": list(self.events), "sizes": sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take events and sizes over from a checkpoint."""
        self.events = list(state_dict["events"])
        for name, state in state_dict["sizes"].items():
            self._sizes[name].load(state)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Bind to the module.

        Raises:
            InputError: When recovery could not be exact or safe.
        """
        self._undo()
        self._trainer = trainer
        self._evaluation = SplitEvaluation(trainer, pl_module, self._sizes["evaluation"], self)
        if stage == "fit":
            _refuse(trainer, pl_module)
            self._training = SplitTraining(trainer, pl_module, self._sizes["training"], self)
            self._training.bind()
            self._optimizer_step = Binding(pl_module)
            self._optimizer_step.put("optimizer_step", self._guarded)
        self._evaluation.bind()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the module and its optimizer, which are complete by now."""
        if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
            raise InputError(_refusal("LBFGS runs a batch several times in one step"))
        if self._training is not None:
            self._training.start()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the optimizer take its memory before the first batch does."""
        for optimizer in trainer.optimizers:
            make_state(optimizer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch."""
        if self._training is not None:
            self._training.correct(outputs)

    @contextlib.contextmanager
    def standing_aside(self) -> Iterator[None]:
        """Let errors of memory pass for a while, for who wants to see them."""
        with contextlib.ExitStack() as lifted:
            for part in (self._optimizer_step, self._evaluation, self._training):
                if part is not None:
                    lifted.enter_context(part.lifted())
            yield

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the module back when a run fails."""
        self._undo()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the module back."""
        self._undo()

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
        self._warn_once()
        self._note("out_of_memory", phase, count, size)

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
        """Note that a single sample does not fit, and save what there is."""
        self._note("give_up", phase, 1, 1)
        step = self._step
        saved = self._save() if may_save else _UNSAVED
        return FaultError(
            f"the device ran out of memory in the {phase} with 1 sample at step {step}; {saved}: "
            "free memory on it or take another device, then resume"
        )

    @property
    def _step(self) -> int:
        assert self._trainer is not None
        return steps_done(self._trainer)

    def _note(self, kind: str, phase: str, count: int, size: int) -> None:
        assert self._trainer is not None
        trainer = self._trainer
        self.events.append(
            {
                "event": kind,
                "phase": phase,
                "epoch": trainer.current_epoch,
                "step": self._step,
                "samples": count,
                "micro_batch_size": size,
            }
        )
        failures = sum(event["event"] == "out_of_memory" for event in self.events)
        values = {"memory/micro_batch_size": float(size), "memory/out_of_memory": float(failures)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self._step)

    def _warn_once(self) -> None:
        assert self._trainer is not None
        if self._has_warned:
            return
        self._has_warned = True
        names = {type(part).__name__ for part in depends_on_batch(self._trainer.lightning_module)}
        if names:
            _log.warning(
                "with %s the result is that of a run with the smaller micro-batch, no longer that "
                "of the one asked for",
                ", ".join(sorted(names)),
            )

    # --- the end -----------------------------------------------------------------------------

    def _guarded(self, method: Any) -> Any:
        """Wrap `optimizer_step`: what runs out of memory in there cannot be split."""

        def optimizer_step(*args: Any, **options: Any) -> Any:
            optimizer = getattr(args[2], "optimizer", args[2])  # after the epoch and the batch
            before = writes_so_far(optimizer)
            outputs: list[Any] = []
            if is_fit_for(lambda: outputs.append(method(*args, **options))):
                return outputs[0]
            raise self._fail_in_optimizer(is_untouched=before == writes_so_far(optimizer))

        return optimizer_step

    def _fail_in_optimizer(self, *, is_untouched: bool) -> FaultError:
        free_memory()
        self._note("give_up", "optimizer step", 0, self._sizes["training"].current)
        assert self._trainer is not None
        is_alone = self._trainer.world_size == 1
        step = self._step
        saved = self._save() if is_alone and is_untouched else _UNSAVED
        return FaultError(
            f"the device ran out of memory in the optimizer's step {step}; {saved}: resume with a "
            "smaller micro_batch_size"
        )

    def _save(self) -> str:
        """Save the state before the step that failed, from which a resume repeats it."""
        trainer = self._trainer
        assert trainer is not None
        assert self._training is not None
        self._sizes["training"].forget()  # a resume comes when there is memory again
        self._training.return_to_window_start()
        go_to_window_start(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, DurableCheckpoint):
                try:
                    return f"saved {callback.save(trainer)}"
                except FaultError as error:  # must not hide what came first
                    return f"not saved ({error})"
        path = Path(trainer.default_root_dir) / "out_of_memory.ckpt"
        trainer.save_checkpoint(path)
        return f"saved {path}"

    def _undo(self) -> None:
        for part in (self._training, self._evaluation, self._optimizer_step):
            if part is not None:
                part.undo()
        self._training = self._evaluation = self._optimizer_step = None


def _refuse(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Refuse what a retry would spoil or hang.

    Raises:
        InputError: With the reason.
    """
    reason = _reason(trainer, module)
    if reason is not None:
        raise InputError(_refusal(reason))


def _refusal(reason: str) -> str:
    return (
        f"OomRecovery cannot be exact and safe here: {reason}; train without it "
        "(callbacks.oom_recovery.enabled=false)"
    )


def _reason(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    if not module.automatic_optimization:
        return "the module optimizes by hand, so a step cannot be taken back"
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return "training_step takes its batches from the loader itself"
    strategy: Any = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        return f"{type(strategy).__name__} leaves weights scattered when a pass fails half-way"
    has_synced = any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
    if has_synced or getattr(strategy, "_layer_sync", None) is not None:
        return "SyncBatchNorm makes ranks wait for each other in every part"
    ddp = getattr(strategy, "_ddp_kwargs", {})
    for option in ("find_unused_parameters", "static_graph"):
        if ddp.get(option):
            return f"DDP with {option} follows the graph behind the loss, which is kept from it"
    return None
