"""Multiply all learning rates of a run, those that schedules have yet to set included."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["scale_learning_rates"]

# What PyTorch's schedules compute learning rates from, besides the present one.
_IN_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr")
_IN_SCHEDULES = ("base_lrs", "max_lrs", "min_lrs", "eta_min", "_last_lr")


def scale_learning_rates(
    optimizers: Iterable[Optimizer], schedules: Iterable[Any], ratio: float
) -> None:
    """Let every learning rate from now on be `ratio` times what it would have been.

    Args:
        optimizers: Whose groups are changed.
        schedules: PyTorch's schedules of them, which may hold others.
        ratio: New / old learning rate.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            _scale(group, _IN_GROUPS, ratio)
    waiting, seen = list(schedules), set()
    while waiting:
        schedule = waiting.pop()
        if id(schedule) in seen:
            continue
        seen.add(id(schedule))
        _scale(vars(schedule), _IN_SCHEDULES, ratio)
        waiting += getattr(schedule, "_schedulers", [])


def _scale(values: dict[str, Any], names: Iterable[str], ratio: float) -> None:
    for name in names:
        value = values.get(name)
        if isinstance(value, (list, tuple)):
            values[name] = type(value)(_scaled(item, ratio) for item in value)
        elif value is not None:
            values[name] = _scaled(value, ratio)


def _scaled(value: Any, ratio: float) -> Any:
    if isinstance(value, Tensor):  # a compiled step holds on to this very tensor
        return value.mul_(ratio)
    return value * ratio
