"""All that training steps change, kept on the host and put back bit for bit."""

import copy
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer

from gpuopt.steps.plain_state import PlainState
from gpuopt.steps.step_state import StateKeeper
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["FitState", "averages_of"]


def averages_of(trainer: L.Trainer) -> list[Any]:
    """Return the averaged models that Lightning's `WeightAveraging` callbacks keep."""
    callbacks = callbacks_of(trainer)
    kept = [c._average_model for c in callbacks if isinstance(c, WeightAveraging)]
    return [average for average in kept if average is not None]


class FitState:
    """The state of a fit before its first step, or between two.

    Weights, gradients, buffers, metrics, averages of weights, optimizers, schedules, the scaler
    of fp16, random number generators, logged values, Lightning's counts and plain attributes of
    modules.

    Args:
        trainer: In a fit, with its optimizers.
        module: That it fits.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._keeper = StateKeeper(trainer, module)
        self._before = self._keeper.take()
        averages = averages_of(trainer)
        tensors = [*module.parameters(), *_weights_of(averages)]
        self._tensors = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]
        self._gradients = [
            (p, p.grad, None if p.grad is None else p.grad.detach().to("cpu", copy=True))
            for p in module.parameters()
        ]
        self._optimizers = [_OptimizerState(optimizer) for optimizer in trainer.optimizers]
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._plain = [
            PlainState([*trainer.optimizers, *schedules], drops_new=True),
            PlainState(module.modules(), drops_new=True),
        ]
        loop = trainer.fit_loop.epoch_loop
        counts = (loop.automatic_optimization.optim_progress,)
        more = (loop.manual_optimization.optim_step_progress,)
        self._counts = [(c, copy.deepcopy(c.state_dict())) for c in (*counts, *more)]
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._scaler_state = None if self._scaler is None else self._scaler.state_dict()

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back; may be called again."""
        for plain in self._plain:
            plain.restore()
        for tensor, numbers in self._tensors:
            tensor.copy_(numbers)
        for parameter, gradient, values in self._gradients:
            if gradient is not None and values is not None:
                gradient.copy_(values)
            parameter.grad = gradient
        for optimizer in self._optimizers:
            optimizer.restore()
        for count, state in self._counts:
            count.load_state_dict(copy.deepcopy(state))
        if self._scaler is not None and self._scaler_state:
            self._scaler.load_state_dict(self._scaler_state)
            self._scaler._per_optimizer_states.clear()
        self._keeper.restore(self._before)  # last: it sets the random number generators


class _OptimizerState:
    """An optimizer's state and options; tensors keep their identity."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._state = {key: _kept(values) for key, values in optimizer.state.items()}
        self._groups = [
            _kept({key: value for key, value in group.items() if key != "params"})
            for group in optimizer.param_groups
        ]

    def restore(self) -> None:
        state = self._optimizer.state
        for key in [key for key in state if key not in self._state]:
            del state[key]
        for key, kept in self._state.items():
            state[key] = _put_back(kept)
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            for name in [name for name in group if name != "params" and name not in kept]:
                del group[name]
            group.update(_put_back(kept))


def _weights_of(averages: Iterable[Any]) -> list[Tensor]:
    return [
        tensor for average in averages for tensor in (*average.parameters(), *average.buffers())
    ]


def _kept(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Note values by name: the object, and of a tensor its numbers on the host."""
    return {
        name: (value, value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else None)
        for name, value in values.items()
    }


def _put_back(kept: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    for value, numbers in kept.values():
        if numbers is not None:
            value.copy_(numbers)
    return {name: value for name, (value, _) in kept.items()}
