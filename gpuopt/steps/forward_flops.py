"""Count the operations of a module's forward pass from what its parts are called with.

The real pass is only watched: the parts that it calls are run again on the meta device, as copies
that share nothing with the module. Backward is not counted, because PyTorch's counter gives 9 to
44 times as much for depthwise convolutions as they do.
"""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

__all__ = ["ForwardWatch", "is_compiled"]


class ForwardWatch:
    """Notes with which shapes the parts of a module are called, until it is told to stop.

    A part is a submodule with parameters that no other part has called. What else is computed, by
    losses, by metrics or by the module itself with functions, is next to nothing beside layers.

    Args:
        module: Nothing of it may be compiled.

    Attributes:
        convolution_ratio: Which share of the counted operations convolutions are.

    Raises:
        Exception: Whatever a part raises that takes no hooks.
    """

    def __init__(self, module: nn.Module) -> None:
        self.convolution_ratio = 0.0
        self._calls: list[tuple[nn.Module, Any, Any]] = []
        self._depth = 0
        self._has_failed = False
        self._handles: list[RemovableHandle] = []
        try:
            for part in module.modules():
                if part is not module and next(part.parameters(), None) is not None:
                    self._hook(part)
        except BaseException:
            self.stop()
            raise

    def _hook(self, part: nn.Module) -> None:
        enter = part.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)
        self._handles.append(enter)
        self._handles.append(part.register_forward_hook(self._leave, always_call=True))

    def stop(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def count(self) -> int | None:
        """Count the operations of the calls that were seen; a multiplication and addition are two.

        Returns:
            None when there was no call, one failed, or a part was called with several batch sizes:
            then memory may have run out, and calls were repeated.

        Raises:
            Exception: Whatever a part raises that cannot be copied or run without data.
        """
        if self._has_failed or not self._calls or self._has_repeated():
            return None
        copies: dict[int, nn.Module] = {}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for part, arguments, keywords in self._calls:
                if id(part) not in copies:
                    copies[id(part)] = _on_meta(part)
                copies[id(part)](*arguments, **keywords)
        flops = int(counter.get_total_flops())
        counts = counter.get_flop_counts().get("Global", {})
        convolved = sum(number for name, number in counts.items() if "convolution" in str(name))
        self.convolution_ratio = convolved / max(1, flops)
        return flops

    def _has_repeated(self) -> bool:
        sizes: dict[int, set[int]] = {}
        for part, arguments, keywords in self._calls:
            tensors = [v for v in tree_leaves((arguments, keywords)) if isinstance(v, Tensor)]
            sizes.setdefault(id(part), set()).update(len(v) for v in tensors[:1] if v.ndim)
        return any(len(found) > 1 for found in sizes.values())

    def _enter(self, part: nn.Module, arguments: Any, keywords: Any) -> None:
        if self._depth == 0:
            self._calls.append((part, tree_map(_shape, arguments), tree_map(_shape, keywords)))
        self._depth += 1

    def _leave(self, part: nn.Module, arguments: Any, output: Any) -> None:
        self._depth -= 1
        self._has_failed = self._has_failed or output is None


def is_compiled(module: nn.Module) -> bool:
    """Tell whether any part of a module is compiled, which hooks would have compiled anew."""
    return any(
        part._compiled_call_impl is not None or hasattr(part, "_orig_mod")
        for part in module.modules()
    )


def _shape(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def _on_meta(part: nn.Module) -> nn.Module:
    """Copy a module without its data and its hooks."""
    known: dict[int, Any] = {}
    for tensor in itertools.chain(part.parameters(), part.buffers()):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        is_parameter = isinstance(tensor, nn.Parameter)
        known[id(tensor)] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    copied = copy.deepcopy(part, known)
    for inner in copied.modules():
        for hooks in (inner._forward_hooks, inner._forward_pre_hooks):
            hooks.clear()
    return copied
