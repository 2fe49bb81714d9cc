"""Let a window, instead of a number of batches, decide when Lightning's loop takes a step."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
from torch.optim import Optimizer

from gpuopt.callbacks.accumulation_window import Window

__all__ = ["LoopWindow"]


class LoopWindow:
    """Three answers of Lightning's training loop, given from a window.

    Whether the window is full, whether gradients are dropped before the backward pass, and what
    the loss is divided by. Lightning derives all of them from the number of a batch and
    `accumulate_grad_batches`, which cannot describe windows of different numbers of batches. The
    loop of this Trainer alone is changed, and given back.

    Args:
        trainer: Fits a module with automatic optimization.
        window: Knows the answers.
        on_loss: Is told that the running batch has a loss.
    """

    def __init__(self, trainer: L.Trainer, window: Window, on_loss: Callable[[], None]) -> None:
        self._epoch_loop: Any = trainer.fit_loop.epoch_loop
        self._loop: Any = self._epoch_loop.automatic_optimization
        self._window = window
        self._on_loss = on_loss

    def bind(self) -> None:
        """Take the loop's place in the three questions."""
        self._epoch_loop._accumulated_batches_reached = self._is_reached
        self._loop._make_zero_grad_fn = self._zero_grad
        self._loop.output_result_cls = self

    def undo(self) -> None:
        """Give the loop back."""
        vars(self._epoch_loop).pop("_accumulated_batches_reached", None)
        for name in ("_make_zero_grad_fn", "output_result_cls"):
            vars(self._loop).pop(name, None)

    def from_training_step_output(self, output: Any, normalize: int) -> Any:
        """Make Lightning's result of a batch with this batch's share of the window's loss."""
        result = type(self._loop).output_result_cls.from_training_step_output(
            output, self._window.divisor
        )
        if result.closure_loss is not None:
            self._on_loss()
        return result

    def _is_reached(self) -> bool:
        window = self._window
        # A batch that is None is counted, but no hook is called for it: it ends nothing.
        is_known = window.batch in (None, self._epoch_loop.batch_idx)
        return window.is_closed and is_known

    def _zero_grad(self, batch_idx: int, optimizer: Optimizer) -> Callable[[], None] | None:
        if self._loop._skip_backward or self._window.batch != self._window.first_batch:
            return None

        def zero_grad() -> None:
            self._loop._on_before_zero_grad(optimizer)
            self._loop._optimizer_zero_grad(batch_idx, optimizer)

        return zero_grad
