"""Numbers, lists and generators that somebody's objects keep as attributes, noted and put back."""

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["PlainState"]

_VALUES = (bool, int, float, complex, str, bytes, type(None), tuple, frozenset)


class PlainState:
    """The attributes of some objects, one level deep.

    Lists, sets and dictionaries keep their identity and get their members back; tensors their
    numbers; generators of random numbers their state. Other objects are left alone.

    Args:
        owners: Objects with a `__dict__`; others are ignored.
        drops_new: Whether `restore` removes plain attributes that were not there before.
        keeps_tensors: Whether tensors are copied; a data set may be one large tensor.
    """

    def __init__(
        self, owners: Iterable[Any], *, drops_new: bool = False, keeps_tensors: bool = True
    ) -> None:
        self._drops_new = drops_new
        self._owners = [owner for owner in owners if hasattr(owner, "__dict__")]
        self._names = [set(vars(owner)) for owner in self._owners]
        self._undo = [
            (vars(owner), name, value, _keep(value))
            for owner in self._owners
            for name, value in list(vars(owner).items())
            if keeps_tensors or not isinstance(value, Tensor)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what has changed."""
        for place, name, value, put_back in self._undo:
            if put_back is not None:
                put_back()
                place[name] = value
        if self._drops_new:
            for owner, names in zip(self._owners, self._names, strict=True):
                new = [key for key, value in vars(owner).items() if key not in names]
                for key in new:
                    if _keep(vars(owner)[key]) is not None:
                        del vars(owner)[key]


def _keep(value: Any) -> Callable[[], Any] | None:
    """Return what puts a value back in place; None for objects that are not known."""
    kind = type(value)
    if kind in _VALUES:
        return lambda: None
    if kind is list or kind is deque:
        items = list(value)
        return lambda: (value.clear(), value.extend(items))
    if kind is dict or kind is set:
        members = value.copy()
        return lambda: (value.clear(), value.update(members))
    if isinstance(value, Tensor):
        return _keep_tensor(value)
    return _keep_generator(value)


def _keep_tensor(tensor: Tensor) -> Callable[[], Any] | None:
    if isinstance(tensor, torch.nn.Parameter) or tensor.is_inference() or tensor.grad_fn:
        return None
    numbers = tensor.detach().clone()
    return lambda: tensor.copy_(numbers)


def _keep_generator(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        numbers = value.getstate()
        return lambda: value.setstate(numbers)
    if isinstance(value, np.random.RandomState):
        legacy = value.get_state(legacy=False)
        return lambda: value.set_state(legacy)
    if isinstance(value, np.random.Generator):
        bits, position = value.bit_generator, value.bit_generator.state
        return lambda: setattr(bits, "state", position)
    return None
