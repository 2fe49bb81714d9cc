"""Fold BatchNorm into the convolution before it, which an engine then computes as one.

A folded norm needs neither a kernel of its own nor a cast to fp32 and back in half precision. The
pairs are found by watching one forward pass, so it works for any network whose layers are modules.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["fold_batch_norms"]

# Subclasses may compute something else; timm's are named, since engines work without timm.
_CONVOLUTIONS = ("Conv2d", "Conv2dSame")
_NORMS = ("BatchNorm2d", "BatchNormAct2d")


@torch.no_grad()
def fold_batch_norms(network: nn.Module, example: Tensor) -> int:
    """Fold in place.

    A pair is folded when the norm is all that reads the convolution's output, and both are called
    once.

    Args:
        network: In evaluation mode, in fp32.
        example: Float32 images [n, 3, s, s] that the network takes.

    Returns:
        Number of norms that are gone.
    """
    modules = dict(network.named_modules())
    norms = {name: m for name, m in modules.items() if type(m).__name__ in _NORMS}
    if not norms:
        return 0
    watch = _watch(network, modules, example)
    folded = 0
    for name, norm in norms.items():
        convolution = watch.source_of(norm)
        if convolution is None or not _fold(convolution, norm):
            continue
        network.set_submodule(name, _rest_of(norm))
        folded += 1
    return folded


@dataclass
class _Watch:
    """Who wrote and who read what in one forward pass; tensors are kept, so that ids are unique."""

    written: dict[int, nn.Module] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    sources: dict[int, list[nn.Module | None]] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)
    tensors: list[Any] = field(default_factory=list)
    outputs: dict[int, int] = field(default_factory=dict)

    def source_of(self, norm: nn.Module) -> nn.Module | None:
        """Return the convolution that writes for this norm alone."""
        sources = self.sources.get(id(norm), [])
        if len(sources) != 1 or sources[0] is None:
            return None
        convolution = sources[0]
        if self.calls[id(convolution)] != 1 or self.reads[self.outputs[id(convolution)]] != 1:
            return None
        return convolution


class _Reads(TorchDispatchMode):
    """Counts the operations that read a watched tensor."""

    def __init__(self, watch: _Watch) -> None:
        TorchDispatchMode.__init__(self)  # by name: pyproject.toml excuses its missing types
        self._watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        read = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for key in read & self._watch.reads.keys():
            self._watch.reads[key] += 1
        return func(*args, **kwargs)


def _watch(network: nn.Module, modules: dict[str, nn.Module], example: Tensor) -> _Watch:
    watch = _Watch()

    def wrote(module: nn.Module, _: Any, output: Tensor) -> None:
        watch.tensors.append(output)
        watch.calls[id(module)] = watch.calls.get(id(module), 0) + 1
        watch.written[id(output)] = module
        watch.outputs[id(module)] = id(output)
        watch.reads[id(output)] = 0

    def reads(module: nn.Module, args: tuple[Any, ...]) -> None:
        source = watch.written.get(id(args[0])) if args else None
        watch.sources.setdefault(id(module), []).append(source)

    hooks = []
    for module in modules.values():
        if type(module).__name__ in _CONVOLUTIONS:
            hooks.append(module.register_forward_hook(wrote))
        elif type(module).__name__ in _NORMS:
            hooks.append(module.register_forward_pre_hook(reads))
    try:
        with _Reads(watch):
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return watch


def _fold(convolution: nn.Module, norm: nn.Module) -> bool:
    """Scale the convolution; False when the norm has no running statistics."""
    weight, bias = convolution.weight, convolution.bias
    if not (isinstance(norm.running_mean, Tensor) and isinstance(norm.running_var, Tensor)):
        return False
    assert isinstance(weight, Tensor)  # a convolution's
    assert isinstance(norm.eps, float)  # a norm's
    # In fp64: the folded network is the reference of everything that is made from it.
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if isinstance(norm.weight, Tensor):
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if isinstance(norm.bias, Tensor):
        shift = shift + norm.bias.double()
    if isinstance(bias, Tensor):
        shift = shift + bias.double() * scale
    folded = weight.double() * scale.view(-1, 1, 1, 1)
    convolution.weight = nn.Parameter(folded.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
    return True


def _rest_of(norm: nn.Module) -> nn.Module:
    """Return what a timm norm does beside normalising: dropout, which is off, and activation."""
    act = getattr(norm, "act", None)
    return act if isinstance(act, nn.Module) else nn.Identity()
