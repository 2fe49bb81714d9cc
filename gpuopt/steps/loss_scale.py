"""The factor that Lightning puts before a loss: the scaler of fp16, and the window's division."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from gpuopt.errors import InputError
from gpuopt.steps.accumulation_window import loss_divisor

__all__ = ["LossScale"]

_TIMES, _OVER = "MulBackward0", "DivBackward0"


class LossScale:
    """Knows the factor before Lightning has applied it, for the parts that go backwards earlier.

    Args:
        trainer: Scales and divides.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._trainer = trainer
        self._is_known = False
        self._numbers: tuple[Any, ...] = ()  # what the loss was last multiplied and divided by
        self._product = torch.ones(())  # of these
        self._one: Tensor | None = None

    def arrived(self, cut: Tensor, loss: Tensor, *, is_untouched: bool) -> Tensor | None:
        """Return the gradient of a loss with regard to the tensor that it follows from.

        The engine of autograd takes 0.1 ms for the two operations that lie between, longer on a
        GPU, where it hands them to another thread. So they are read from the graph and done here,
        with the same result; what else is found is left to the engine.

        Args:
            cut: Without a graph.
            loss: What Lightning has made of it.
            is_untouched: Whether no user's code has seen the loss, which may have hooks else.

        Returns:
            None when the loss does not follow from `cut`.
        """
        # Who watches operations would be shown numbers where these take tensors.
        if is_untouched and not loss._backward_hooks and not is_in_torch_dispatch_mode():
            factors = _factors(loss, cut)
            scale = None if factors is None else self._multiplied(factors, loss)
            if scale is not None and scale.dtype == cut.dtype:
                return scale
        torch.autograd.backward(loss)
        return cut.grad

    def is_one(self, scale: Tensor) -> bool:
        """Tell whether a scale that has arrived is known to be 1; waits for no device."""
        return scale is self._one

    def foreseen(self, loss: Tensor) -> Tensor:
        """Return the factor that Lightning will put before the loss when it has all of it."""
        one = loss.detach().new_ones(())
        scaler: Any = getattr(self._trainer.precision_plugin, "scaler", None)
        scaled: Tensor = one if scaler is None else scaler.scale(one)
        divided: Tensor = scaled / loss_divisor(self._trainer)
        return divided

    def check(self, foreseen: Tensor | None, scale: Tensor) -> None:
        """Look once whether the earlier parts had the factor that the last one has.

        Raises:
            InputError: When Lightning has done something else.
        """
        if foreseen is None or self._is_known:
            return
        if not torch.allclose(foreseen.double(), scale.double(), rtol=1e-6):
            raise InputError(
                f"{type(self._trainer.precision_plugin).__name__} scales the loss in a way that "
                "OomRecovery does not know: use callbacks.oom_recovery.enabled=false"
            )
        self._is_known = True

    def _multiplied(self, factors: list[tuple[str, Tensor]], loss: Tensor) -> Tensor:
        """Multiply 1 by factors, as a backward pass does; remembers the last product of numbers."""
        # To read a number from a device would wait for it.
        are_numbers = all(factor.is_cpu for _, factor in factors)
        numbers = [(name, factor.item(), factor.dtype) for name, factor in factors if are_numbers]
        key = (loss.dtype, loss.device, *numbers)
        if are_numbers and key == self._numbers:
            return self._product
        product = torch.ones_like(loss, requires_grad=False)
        for name, factor in factors:
            product = product * factor if name == _TIMES else product / factor
        if are_numbers:
            self._numbers, self._product = key, product
            self._one = product if all(number == 1 for _, number, _ in numbers) else None
        return product


def _factors(loss: Tensor, cut: Tensor) -> list[tuple[str, Tensor]] | None:
    """List what a tensor was multiplied and divided by, the last one first.

    Returns:
        The operations with their factors; None where something else lies between, too.
    """
    found = []
    node: Any = loss.grad_fn
    while node is not None and node.name() in (_TIMES, _OVER):
        (before, _), (of_factor, _) = node.next_functions
        if before is None or of_factor is not None:
            return None
        found.append((node.name(), node._saved_other))
        node = before
    return found if getattr(node, "variable", None) is cut else None
