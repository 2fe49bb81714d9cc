"""Run a module without leaving a trace: gradients, buffers, modes and random numbers are kept."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["kept_state", "restarted_generators"]


@contextlib.contextmanager
def kept_state(module: nn.Module) -> Iterator[None]:
    """Put back, to the bit, what forward and backward passes change in a module.

    A module that is compiled runs uncompiled inside, so that no compiler's cache is filled with
    shapes and number formats of a trial.

    Args:
        module: Its parameters must not be stepped.
    """
    parts = list(module.modules())
    modes = [part.training for part in parts]
    compiled = [(part, part._compiled_call_impl) for part in parts if part._compiled_call_impl]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    buffers = [
        (part._buffers, name, value, value.detach().clone())
        for part in parts
        for name, value in part._buffers.items()
        if value is not None
    ]
    for part, _ in compiled:
        part._compiled_call_impl = None
    for parameter, _ in gradients:
        parameter.grad = None  # not to be added to
    try:
        with restarted_generators(_device_of(module)):
            yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
        for part, implementation in compiled:
            part._compiled_call_impl = implementation
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for place, name, value, copy in buffers:
                value.copy_(copy)
                place[name] = value
        torch.clear_autocast_cache()


@contextlib.contextmanager
def restarted_generators(device: torch.device) -> Iterator[None]:
    """Put the generators of random numbers back at the end to where they are now."""
    python, numpy = random.getstate(), np.random.get_state(legacy=True)
    host = torch.get_rng_state()
    on_device: Any = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(host)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)


def _device_of(module: nn.Module) -> torch.device:
    tensors: Iterator[Tensor] = module.parameters()
    return next(tensors, torch.empty(0)).device
