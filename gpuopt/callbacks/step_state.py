"""What a step changes besides gradients, kept so that a failed attempt leaves no trace.

What it costs per step when nothing fails: four states of random number generators (host memory,
about 20 us, no synchronisation), the numbers of a few logged values by reference, and copies of
those buffers and metric states that a step was seen to overwrite in place: BatchNorm's statistics,
for example, in one or two kernels for all of them. Networks without such buffers copy nothing.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torchmetrics import Metric

__all__ = ["Generators", "StateKeeper", "StepState"]

_METRIC_NOTES = ("_update_count", "_computed", "_forward_cache")


@dataclass(frozen=True)
class Generators:
    """States of the random number generators of Python, NumPy, PyTorch and the device."""

    python: Any
    numpy: Any
    host: Tensor
    device: Tensor | None
    place: torch.device

    @classmethod
    def read(cls, device: torch.device) -> "Generators":
        """Read the states; a CUDA generator's are two numbers on the host."""
        return cls(
            random.getstate(),
            np.random.get_state(legacy=True),
            torch.get_rng_state(),
            torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            device,
        )

    def write(self) -> None:
        """Put the generators back to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.host)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, self.place)


class _Slot:
    """A place that holds a tensor, a list of tensors or a small note of a metric."""

    def __init__(self, owner: nn.Module, name: str, *, is_buffer: bool) -> None:
        self._owner, self.name, self._is_buffer = owner, name, is_buffer
        # Copied until a step has shown that it leaves the tensor's memory alone. BatchNorm may
        # begin to write at any time, when a frozen layer is set free.
        self.is_copied = True
        self.may_learn = not isinstance(owner, _NormBase)

    def get(self) -> Any:
        return (
            self._owner._buffers[self.name] if self._is_buffer else getattr(self._owner, self.name)
        )

    def put(self, value: Any) -> None:
        if self._is_buffer:
            self._owner._buffers[self.name] = value
        else:
            setattr(self._owner, self.name, value)


@dataclass(frozen=True)
class _Kept:
    """What a slot held: the object, the count of writes to it, and a copy where that may rise."""

    value: Any
    version: int
    copy: Any


@dataclass
class StepState:
    """Everything that an attempt may change, as it was before.

    Attributes:
        generators: Of random numbers.
    """

    generators: Generators
    slots: list[tuple[_Slot, _Kept]] = field(default_factory=list)
    logged: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    logged_by: str | None = None


class StateKeeper:
    """Takes and restores the state of a module's step.

    Args:
        trainer: Whose logged values belong to the state.
        module: Whose buffers and metrics do.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._trainer = trainer
        self._module = module
        self._slots: list[_Slot] | None = None
        self._has_learned = False

    def take(self) -> StepState:
        """Note the present state."""
        if self._slots is None:
            self._slots = _slots(self._module)
        state = StepState(Generators.read(self._module.device))
        copies = self._copies(self._slots)
        for slot in self._slots:
            value = slot.get()
            copy = list(value) if isinstance(value, list) else copies.get(id(slot))
            state.slots.append((slot, _Kept(value, _version(value), copy)))
        results = self._trainer._results
        for key, result in (results or {}).items():
            state.logged[key] = (result, dict(vars(result)))
        state.logged_by = self._trainer._logger_connector._current_fx
        return state

    def learn(self, before: StepState) -> None:
        """See from a step that went well which tensors are not overwritten, and copy them no more.

        Once is enough: a tensor that is overwritten later all the same is noticed by `restore`.
        """
        if self._has_learned:
            return
        self._has_learned = True
        for slot, kept in before.slots:
            if slot.may_learn and kept.version >= 0 and kept.version == _version(kept.value):
                slot.is_copied = False

    @torch.no_grad()
    def restore(self, state: StepState) -> list[str]:
        """Go back to a state, which stays valid.

        Returns:
            Names of what could not be restored.
        """
        lost = []
        for slot, kept in state.slots:
            if isinstance(kept.value, list):
                slot.put(list(kept.copy))
                continue
            if isinstance(kept.value, Tensor) and kept.copy is not None:
                kept.value.copy_(kept.copy)  # the same tensor: others may refer to it
            elif kept.version != _version(kept.value):
                lost.append(slot.name)
            slot.put(kept.value)
        self._restore_logged(state)
        state.generators.write()
        return lost

    def _restore_logged(self, state: StepState) -> None:
        results = self._trainer._results
        if results is not None:
            for key in set(results) - set(state.logged):
                del results[key]
            for result, values in state.logged.values():
                vars(result).clear()
                vars(result).update(values)
        self._trainer._logger_connector._current_fx = state.logged_by

    @torch.no_grad()
    def _copies(self, slots: list[_Slot]) -> dict[int, Tensor]:
        """Copy what is overwritten in place, tensors of one kind by one kernel."""
        kinds: dict[tuple[torch.device, torch.dtype], list[_Slot]] = {}
        for slot in slots:
            value = slot.get()
            if isinstance(value, Tensor) and (slot.is_copied or value.is_inference()):
                kinds.setdefault((value.device, value.dtype), []).append(slot)
        copies: dict[int, Tensor] = {}
        for members in kinds.values():
            values = [slot.get() for slot in members]
            targets = [torch.empty_like(value) for value in values]
            torch._foreach_copy_(targets, values)
            copies |= {id(slot): copy for slot, copy in zip(members, targets, strict=True)}
        return copies


def _slots(module: nn.Module) -> list[_Slot]:
    """Find the buffers and metric states of a module and all in it."""
    found = []
    for part in module.modules():
        found += [_Slot(part, name, is_buffer=True) for name in part._buffers]
        if isinstance(part, Metric):
            names = (*part._defaults, *_METRIC_NOTES)
            found += [_Slot(part, name, is_buffer=False) for name in names]
    return found


def _version(value: Any) -> int:
    """Return how often a tensor was written to; -1 where that is not counted."""
    if not isinstance(value, Tensor) or value.is_inference():
        return -1
    return value._version
