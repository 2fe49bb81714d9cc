"""What hooks change between a batch's forward and backward pass, which a retry must not lose."""

import logging
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from gpuopt.steps.step_state import StateKeeper, StepState
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["HookChanges"]

_log = logging.getLogger(__name__)

_HOOKS = ("on_before_zero_grad", "on_before_backward")


class HookChanges:
    """Carries what hooks have done over to the state that a repeated forward pass leaves.

    Lightning calls `on_before_zero_grad`, `optimizer_zero_grad` and `on_before_backward` after the
    forward pass. A backward pass that fails brings buffers, metrics, logged values and generators
    of random numbers back to before the forward pass, for the retry. The hooks are not called
    again: what they changed is put on top of what the retry gave.

    Nothing is kept where no hook is overridden, but in callbacks that have an attribute
    `changes_no_step` which is true.

    Args:
        trainer: With all of its callbacks.
        module: That it fits.
        keeper: Takes the states.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule, keeper: StateKeeper) -> None:
        self._module = module
        self._keeper = keeper
        owners: list[Any] = [c for c in callbacks_of(trainer) if not _changes_no_step(c)]
        self._names = {hook for hook in _HOOKS for o in (*owners, module) if is_overridden(hook, o)}
        if is_overridden("optimizer_zero_grad", module):
            self._names.add("optimizer_zero_grad")
        self._after_forward: StepState | None = None
        self._before_backward: StepState | None = None
        self._versions: list[list[int]] = []
        self._has_warned = False

    @property
    def are_there(self) -> bool:
        """Whether any hook may change something."""
        return bool(self._names)

    @property
    def see_last_gradients(self) -> bool:
        """Whether a hook is called that may look at the gradients of the step before."""
        return bool(self._names - {"on_before_backward"})

    def begin(self) -> None:
        """Note the state that the forward pass has left."""
        if self.are_there:
            self._after_forward = self._keeper.take()
            self._versions = [self._written()]

    def end(self) -> None:
        """Note the state after all hooks."""
        if self.are_there:
            self._before_backward = self._keeper.take()
            self._versions.append(self._written())

    def reapply(self) -> None:
        """Do to the present state what the hooks have done, after a retry."""
        if self._after_forward is None or self._before_backward is None:
            return
        self._keeper.carry(self._after_forward, self._before_backward)
        first, last = self._versions
        names = [name for name, _ in self._module.named_parameters()]
        changed = [n for n, one, other in zip(names, first, last, strict=True) if one != other]
        if changed and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s changed weights (%s) after a forward pass that had to be repeated: where the "
                "pass reads them, its result is not that of a run without the failure; change "
                "them in on_train_batch_end",
                " or ".join(sorted(self._names)),
                changed[0] if len(changed) == 1 else f"{changed[0]} and {len(changed) - 1} more",
            )

    def forget(self) -> None:
        """Let go of the states."""
        self._after_forward = self._before_backward = None

    def _written(self) -> list[int]:
        return [parameter._version for parameter in self._module.parameters()]


def _changes_no_step(callback: L.Callback) -> bool:
    return bool(getattr(callback, "changes_no_step", False))
