"""Real steps of a real module at one batch size: how much memory they take and how long."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from gpuopt.callbacks.trial_steps import TrialSteps, no_steps_because, recoveries_of
from gpuopt.errors import InputError
from gpuopt.memory.batch_dependence import depends_on_batch
from gpuopt.memory.device_errors import free_memory
from gpuopt.memory.probe_meter import AllocatorMeter, ProbeMeter, live_bytes_of
from gpuopt.memory.probe_result import ProbeResult
from gpuopt.steps.fit_state import FitState, averages_of
from gpuopt.steps.gradients import take_gradients
from gpuopt.steps.optimizer_state import make_state
from gpuopt.steps.split_step import Binding, is_fit_for

__all__ = ["ModuleProbe"]


class ModuleProbe:
    """Runs training steps and a validation step inside of a fit that has not begun.

    The module's own `training_step`, backward pass, precision, clipping and optimizer run, and
    averages of the weights are updated; callbacks and loggers are not told. The optimizer's state
    is there from the first step on, the batch before is still held, as in training. Afterwards
    everything is as it was. Ranks do not talk to each other meanwhile, so none waits for one that
    ran out of memory.

    Args:
        trainer: In `on_fit_start` or later.
        module: That it fits.
        make_batch: Makes a batch of so many samples on the host, for `train` or `validate`.
        meter: Of the module's device.
        steps: Training steps of a probe; the first is not timed.
        accumulates: Whether a batch of so many samples will add to gradients that are there, which
            then take their memory during the whole backward pass; None means that none does.
        recovers: Whether training recovers from failures, which with BatchNorm or dropout keeps
            the gradients of a pass apart from those; None asks the Trainer's callbacks.

    Raises:
        InputError: When steps of the module cannot be run or taken back here.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        make_batch: Callable[[int, str], Any],
        meter: ProbeMeter,
        *,
        steps: int = 4,
        accumulates: Callable[[int], bool] | None = None,
        recovers: bool | None = None,
    ) -> None:
        _refuse(trainer, module)
        self._trainer = trainer
        self._module = module
        self._taker = TrialSteps(trainer, module)
        self._make_batch = make_batch
        self._meter = meter
        self._averages = averages_of(trainer)
        self._steps = max(2, steps)
        self._accumulates = accumulates
        # Known before the callbacks are kept out of the steps.
        self._recovers = bool(recoveries_of(trainer)) if recovers is None else recovers

    def __call__(self, samples: int) -> ProbeResult:
        """Measure a batch size; running out of memory is a result."""
        measured: dict[str, Any] = {}
        state = FitState(self._trainer, self._module)
        self._meter.start()
        try:
            with self._quiet(), self._gradients_for(samples), self._meter.capped():
                has_fit = is_fit_for(lambda: measured.update(self._run(samples)))
                if has_fit:
                    measured["peak_bytes"] = self._meter.peak_bytes()
                    measured["live_bytes"] = live_bytes_of(self._meter)
        finally:
            state.restore()
            del state
            free_memory()
        capacity = self._meter.capacity_bytes()
        if not has_fit:
            return ProbeResult(samples, capacity_bytes=capacity, ran_out_of_memory=True)
        return ProbeResult(samples, capacity_bytes=capacity, **measured)

    def _run(self, samples: int) -> dict[str, Any]:
        """Run the steps; returns what was measured on the way."""
        trainer, started = self._trainer, 0.0
        retries = [self._retries()]
        for optimizer in trainer.optimizers:
            make_state(optimizer)
        on_host = self._make_batch(samples, "train")
        batch = before = None
        for step in range(self._steps):
            if step == 1:
                started = self._meter.clock_s()
            before, batch = batch, self._taker.on_device(on_host)
            self._taker.train(batch)
            for average in self._averages:
                average.update_parameters(self._module)
            retries.append(self._retries())
        seconds = (self._meter.clock_s() - started) / (self._steps - 1)
        del batch, before, on_host
        resident = self._meter.resident_bytes()
        if self._validates():
            self._validate(samples)
        # In the first steps the cache gets the sizes that a step asks for.
        thrashed = retries[-1] > retries[-2] and (len(retries) < 4 or retries[-2] > retries[-3])
        return {"seconds_per_step": seconds, "resident_bytes": resident, "thrashed": thrashed}

    def _retries(self) -> int:
        return self._meter.retries() if isinstance(self._meter, AllocatorMeter) else 0

    # --- one step -----------------------------------------------------------------------------

    def _validates(self) -> bool:
        return self._trainer.enable_validation and is_overridden("validation_step", self._module)

    def _validate(self, samples: int) -> None:
        trainer, module = self._trainer, self._module
        loop = trainer.fit_loop.epoch_loop.val_loop
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        trainer.validating = True
        try:
            with torch.inference_mode() if loop.inference_mode else torch.no_grad():
                batch = self._taker.on_device(self._make_batch(samples, "validate"))
                takes_index = is_param_in_hook_signature(
                    module.validation_step, "batch_idx", min_args=2
                )
                arguments = (batch, 0) if takes_index else (batch,)
                call._call_strategy_hook(trainer, "validation_step", *arguments)
        finally:
            trainer.training = True
            for part, mode in modes:
                part.training = mode

    @contextlib.contextmanager
    def _gradients_for(self, samples: int) -> Iterator[None]:
        """Keep the gradients of the step before where training will add to some.

        As zeros, or, where recovery keeps those of a pass apart, beside it until it has ended.
        """
        if self._accumulates is None or not self._accumulates(samples):
            yield
            return
        binding, held = Binding(self._module), list[Any]()

        def keeping(method: Any) -> Any:
            return lambda epoch, batch_idx, optimizer: optimizer.zero_grad(set_to_none=False)

        def setting_aside(method: Any) -> Any:
            def zero_grad(epoch: int, batch_idx: int, optimizer: Any) -> None:
                held.extend(take_gradients(list(self._module.parameters())))
                optimizer.zero_grad()

            return zero_grad

        def letting_go(method: Any) -> Any:
            def backward(*args: Any, **options: Any) -> None:
                method(*args, **options)
                held.clear()

            return backward

        if self._keeps_apart():
            binding.put("backward", letting_go)
            binding.put("optimizer_zero_grad", setting_aside)
        else:
            binding.put("optimizer_zero_grad", keeping)
        try:
            yield
        finally:
            binding.undo()

    def _keeps_apart(self) -> bool:
        """Tell whether training will keep a pass's gradients beside the window's."""
        is_alone = self._trainer.world_size == 1  # else nothing can be taken back
        return self._recovers and is_alone and bool(depends_on_batch(self._module))

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep callbacks, loggers and other ranks out of it, and note the holes in memory."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._taker.quiet())
            if isinstance(self._meter, AllocatorMeter):
                stack.enter_context(_before_backward(self._module, self._meter.note_fragments))
            yield


@contextlib.contextmanager
def _before_backward(module: L.LightningModule, notice: Callable[[], None]) -> Iterator[None]:
    binding = Binding(module)

    def noticing(method: Any) -> Any:
        def backward(*args: Any, **options: Any) -> Any:
            notice()
            return method(*args, **options)

        return backward

    binding.put("backward", noticing)
    try:
        yield
    finally:
        binding.undo()


def _refuse(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Refuse what single steps cannot be taken of.

    Raises:
        InputError: With the reason.
    """
    reason = no_steps_because(trainer, module)
    if reason is not None:
        raise InputError(f"BatchSizeFinder cannot measure here: {reason}; give the batch size")
