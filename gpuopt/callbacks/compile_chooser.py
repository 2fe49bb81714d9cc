"""Compile a part of the module when that makes this very run shorter."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from gpuopt.callbacks.agreement import any_rank
from gpuopt.callbacks.compile_modes import modes_of, other_sizes_because
from gpuopt.callbacks.compile_trial import CompileTrial
from gpuopt.callbacks.trial_steps import no_steps_because
from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.measure.compile_choice import (
    OFF,
    CompileChoice,
    CompileFailedError,
    choose_compile_mode,
)
from gpuopt.steps.batch_parts import sample_count
from gpuopt.steps.compiled_part import CallCount
from gpuopt.steps.compiler_cache import CompilerCache, missing_compiler
from gpuopt.steps.plain_state import PlainState
from gpuopt.steps.sample_batch import data_objects
from gpuopt.steps.step_state import Generators
from gpuopt.steps.trainer_parts import data_module_of

__all__ = ["CompileChooser"]

_log = logging.getLogger(__name__)

_MOST_STEPS = 10**9  # of a run without an end


class CompileChooser(L.Callback):
    """Times steps with the part eager and compiled before training, and takes what pays back.

    Real steps run at the start of the fit: the module's own, with its optimizer, on a real batch.
    Then all is put back, to the bit. Compiling happens in another process first, which is ended at
    the limit, and its result stays in a cache, so that the next start is quick. What goes wrong
    leaves the part eager, with one line. The names of weights in checkpoints stay.

    Compiled code serves training batches of the size that was tried; batches of another size and
    validation run eager, because each would be compiled anew. A run that goes on from a checkpoint
    keeps its choice, on another device it is made anew. With several ranks all take the same.
    Steps are timed without the reduction of gradients, which they have in common.

    Args:
        part: Name of the module's part; it returns one tensor, such as logits.
        backend: Of torch.compile.
        time_limit_s: Most seconds to compile, all modes together. A quarter of what remains of the
            run is the limit as well.
        total_steps: Optimizer steps of the whole run; None asks the Trainer.
        batches_per_step: Returns how many batches of full size a rank takes in an optimizer step;
            None asks the Trainer.
        sample_batch: Returns a training batch of full size; None takes the first of the loader.
        cache_dir: Folder of all caches; None means the user's cache folder.

    Attributes:
        result: What was found, and how; None before.
        choice: The mode with its evidence; None before.

    Raises:
        InputError: For a time that is not positive.
    """

    def __init__(
        self,
        part: str = "backbone",
        *,
        backend: str = "inductor",
        time_limit_s: float = 120.0,
        total_steps: int | None = None,
        batches_per_step: Callable[[], int] | None = None,
        sample_batch: Callable[[], Any] | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if not time_limit_s > 0:
            raise InputError(f"CompileChooser: time_limit_s={time_limit_s} is not above 0")
        self.result: CompileChoice | None = None
        self.choice: Choice | None = None
        self._part = part
        self._backend = backend
        self._time_limit_s = time_limit_s
        self._total_steps = total_steps
        self._batches_per_step = batches_per_step
        self._sample_batch = sample_batch
        self._cache = CompilerCache(cache_dir)
        self._compiled: nn.Module | None = None
        self._calls = CallCount()
        self._device = ""
        self._steps_done = 0
        self._stored: dict[str, Any] = {}

    def summary(self) -> dict[str, Any] | None:
        """Return what was found as plain values, and how often the part ran compiled since.

        Validation and batches of another size are calls that run eager.
        """
        if self.choice is None:
            return None
        found: dict[str, Any] = {"mode": self.choice.value, "reason": self.choice.reason}
        if self.result is not None:
            found = self.result.as_dict()
        calls = self._calls
        return {**found, "compiled_calls": calls.total - calls.eager, "eager_calls": calls.eager}

    def state_dict(self) -> dict[str, Any]:
        """Save the choice, and on what device it was made."""
        if self.choice is None:
            return {}
        return {"mode": self.choice.value, "reason": self.choice.reason, "device": self._device}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a choice that was made before."""
        self._stored = dict(state_dict)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how much of the run is done; Lightning counts on only after the fit has begun."""
        self._steps_done = int(checkpoint["global_step"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose, and compile.

        Raises:
            InputError: When the module has no such part, or it is compiled already.
        """
        part, device = self._find(pl_module), pl_module.device
        self._device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.result = self.choice = None
        self._calls = CallCount()
        obstacle = no_steps_because(trainer, pl_module) or missing_compiler(device, self._backend)
        generators = Generators.read(device)
        kept = [PlainState([data_module_of(trainer)], keeps_tensors=False)]
        try:
            if any_rank(trainer, obstacle is not None):
                raise CompileFailedError(obstacle or "it cannot be compiled on another rank")
            batch = self._batch(trainer, kept)
            others = other_sizes_because(trainer, sample_count(batch))
            if any_rank(trainer, others is not None):
                raise CompileFailedError(others or "another rank takes other sizes")
            trial = CompileTrial(trainer, pl_module, part, batch, self._backend, self._cache)
            self._compiled = part
            self._decide(trainer, trial)
            self._calls = trial.calls
        except CompileFailedError as error:
            self.result = CompileChoice(OFF, str(error), 0, 0.0)
            self.choice = self.result.choice()
        finally:
            for state in reversed(kept):
                state.restore()
            generators.write()
        _log.info("%s", self.choice)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the part uncompiled, for what follows and for another fit."""
        self._release()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the part uncompiled when the fit fails."""
        self._release()

    def _release(self) -> None:
        if self._compiled is not None:
            self._compiled._compiled_call_impl = None
        self._compiled = None

    def _decide(self, trainer: L.Trainer, trial: CompileTrial) -> None:
        """Choose anew, or take over what was chosen before on such a device."""
        modes = modes_of(trainer, trainer.lightning_module, self._backend)
        is_new = self._stored.get("device") != self._device or self._stored["mode"] not in (
            OFF,
            *modes,
        )
        is_new = any_rank(trainer, is_new)
        if not is_new and self._stored["mode"] == OFF:
            self.choice = Choice("compile.mode", OFF, "measured", str(self._stored["reason"]))
            return
        with trial.running():
            if is_new:
                steps_left = self._batches_left(trainer)
                self.result = choose_compile_mode(
                    trial.step_eager,
                    trial.make_compiled,
                    steps_left,
                    modes=modes,
                    time_limit_s=self._time_limit_s,
                    clock=trial.clock_s,
                    agree=trial.agree,
                )
                trial.keep(self.result.mode)
                self.choice = self.result.choice()
                return
            mode, reason = str(self._stored["mode"]), str(self._stored["reason"])
            fault: str | None = None
            try:
                trial.make_compiled(mode, self._time_limit_s)
            except CompileFailedError as error:
                fault = str(error)
            if any_rank(trainer, fault is not None):
                raise CompileFailedError(fault or "it failed on another rank")
            trial.keep(mode)
            self.choice = Choice("compile.mode", mode, "measured", reason)

    def _find(self, module: L.LightningModule) -> nn.Module:
        try:
            part = module.get_submodule(self._part)
        except AttributeError:
            raise InputError(
                f"CompileChooser: {type(module).__name__} has no part {self._part!r}: name one "
                "that takes and returns tensors"
            ) from None
        if part._compiled_call_impl is not None:
            raise InputError(
                f"CompileChooser: {self._part} is compiled already: compile it yourself, or "
                "leave it to this callback"
            )
        return part

    def _batches_left(self, trainer: L.Trainer) -> int:
        total = self._total_steps or _estimated_steps(trainer)
        per_step = trainer.accumulate_grad_batches
        if self._batches_per_step is not None:
            per_step = self._batches_per_step()
        return max(0, int(min(total, _MOST_STEPS)) - self._steps_done) * per_step

    def _batch(self, trainer: L.Trainer, kept: list[PlainState]) -> Any:
        if self._sample_batch is not None:
            return self._sample_batch()
        loaders: Any = trainer.fit_loop._data_source.dataloader()
        kept.append(PlainState(data_objects(loaders), keeps_tensors=False))
        return _first_batch(loaders)


def _estimated_steps(trainer: L.Trainer) -> float:
    """Ask the Trainer, and let it make its loaders again: that may draw random numbers."""
    loop: Any = trainer.fit_loop
    loader = loop._combined_loader
    total = trainer.estimated_stepping_batches
    loop._combined_loader = loader
    return total


def _first_batch(loaders: Any) -> Any:
    """Read a batch of full size, without workers where that is possible."""
    if isinstance(loaders, DataLoader) and loaders.batch_sampler is not None:
        dataset: Any = loaders.dataset
        if not isinstance(dataset, IterableDataset):
            rows = next(iter(loaders.batch_sampler))
            return loaders.collate_fn([dataset[row] for row in rows])
    if not isinstance(loaders, (Mapping, list, tuple)):
        batches = iter(loaders)
        if batches is not loaders:  # else it can be read only once
            return next(batches)
    raise CompileFailedError(
        f"no batch can be taken from {type(loaders).__name__} before training: give sample_batch"
    )
