"""Keep an optimizer's state in host memory, through torchao (an optional package, BSD-3).

torchao's `CPUOffloadOptimizer` copies each gradient to the host as backward makes it, runs the
optimizer there, and copies the weights back. What is added here makes it right for training with
accumulation, clipping and split batches, where a gradient is complete only when the step begins.
"""

import importlib
from typing import Any

import torch
from torch.optim import Optimizer

from gpuopt.errors import InputError

__all__ = ["OFFLOADED_FROM", "offloaded"]

# Elements of a parameter from which its state is kept in host memory; smaller ones stay.
OFFLOADED_FROM = 4096


def offloaded(kind: type[Optimizer], groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    """Build an optimizer whose state lies in host memory.

    Args:
        kind: Such as `torch.optim.AdamW`.
        groups: Parameter groups; the parameters lie on one CUDA device.
        options: Further arguments of `kind`.

    Raises:
        InputError: When torchao is not installed.
    """
    kind_of_torchao = _torchaos_class()

    # The base comes from an optional package at run time, and mypy takes no variable for a base.
    class Offloaded(kind_of_torchao):  # type: ignore[misc, valid-type]
        """Sends complete gradients; see the module."""

        def __init__(self) -> None:
            super().__init__(groups, kind, minimal_size=OFFLOADED_FROM, **options)
            # What Lightning and schedules expect of an optimizer, and torchao leaves out; the
            # state itself is not here, so nobody can move it to the device.
            self.state: dict[Any, Any] = {}
            self.defaults: dict[str, Any] = dict(options)

        def step(self, closure: Any = None) -> Any:
            loss = None if closure is None else closure()
            self._send_gradients()
            super().step()
            return loss

        @torch.no_grad()
        def load_state_dict(self, state_dict: Any) -> None:
            super().load_state_dict(state_dict)
            if self.d_opt is not None:
                # PyTorch loads groups as new ones, and torchao goes on with the old ones: a
                # schedule would set the rates of groups that no optimizer has.
                self.d_param_groups = self.d_opt.param_groups
            for on_device, on_host in self.param_d2h_map.items():  # the weights were loaded as well
                on_host.copy_(on_device)

        @torch.no_grad()
        def _send_gradients(self) -> None:
            """Copy the gradients as they are now: accumulated, clipped, or put together."""
            streams: Any = getattr(torch, self.device)
            self.stream.wait_stream(streams.current_stream())
            self.queue.clear()
            for on_device, on_host in self.param_d2h_map.items():
                if on_device.grad is None:
                    continue
                with streams.stream(self.stream):
                    on_host.grad.copy_(on_device.grad, non_blocking=True)
                self.queue[on_device] = self.stream.record_event()

    return Offloaded()


def _torchaos_class() -> Any:
    try:
        return importlib.import_module("torchao.optim").CPUOffloadOptimizer
    except (ImportError, AttributeError) as error:
        raise InputError(
            "optimizer.offload=true needs the package torchao: pip install 'gpuopt[offload]' "
            f"({type(error).__name__}: {str(error)[:100]})"
        ) from error
