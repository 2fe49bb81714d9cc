"""CUDA's attention and autocast for meta tensors, which have none of their own.

Only the lists that decide which tensors are kept for backward are emulated: what runs in half
precision, and what runs in fp32. Everything else follows ordinary type promotion, as in real
autocast (so ConvNeXt's fp32 layer scale promotes its residual stream to fp32).
"""

import functools
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Emulation", "emulate_cuda"]

_HALF = torch.bfloat16

# PyTorch's autocast op reference, "CUDA ops that can autocast to float16" and "... to float32".
_HALF_NAMES = (
    "addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d einsum linear matmul mm mv prelu rnn_tanh "
    "scaled_dot_product_attention __matmul__ __rmatmul__"
)
_FP32_NAMES = (
    "__pow__ __rdiv__ __rpow__ __rtruediv__ acos asin binary_cross_entropy_with_logits cdist cosh "
    "cosine_similarity cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm "
    "layer_norm log log10 log1p log2 log_softmax mse_loss nll_loss norm normalize pow prod "
    "reciprocal renorm rms_norm rsqrt sinh smooth_l1_loss softmax softmin softplus sum tan"
)


def _functions(names: str) -> frozenset[Callable[..., Any]]:
    places = (torch, functional, torch.Tensor)
    pairs = [(place, name) for place in places for name in names.split()]
    return frozenset(getattr(place, name) for place, name in pairs if hasattr(place, name))


_IN_HALF = _functions(_HALF_NAMES)
_IN_FP32 = _functions(_FP32_NAMES)


def emulate_cuda(model: torch.nn.Module) -> "Emulation":
    """Make a model on the meta device keep for backward what it keeps on CUDA.

    Each module enters the emulation by itself unless it is called from within one, because a
    block that is recomputed in backward runs outside of every context around the forward pass.

    Args:
        model: Changed in place and of no other use afterwards.

    Returns:
        What to begin before each pass.
    """
    emulation = Emulation()
    for module in model.modules():
        module.forward = emulation.wrap(module.forward)
    return emulation


class Emulation:
    """What surrounds the forward passes of a model.

    Attributes:
        weight_copies_bytes: Most bytes that autocast's copies of the weights have taken since
            the emulation began.
    """

    def __init__(self) -> None:
        self.begin(half=False)

    def begin(self, *, half: bool) -> None:
        """Begin anew.

        Args:
            half: Whether to emulate autocast to fp16 or bf16, which take the same bytes.
        """
        self.weight_copies_bytes = 0
        self._half = half
        self._active = False

    def wrap(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Let a module's forward pass enter the emulation when it is the outermost."""

        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._active:
                return forward(*args, **kwargs)
            self._active = True
            try:
                with ExitStack() as modes:
                    modes.enter_context(_FusedAttention())
                    if self._half:
                        autocast = modes.enter_context(_Autocast())
                        modes.callback(self._note, autocast)
                    return forward(*args, **kwargs)
            finally:
                self._active = False

        return run

    def _note(self, autocast: "_Autocast") -> None:
        self.weight_copies_bytes = max(self.weight_copies_bytes, autocast.copies_bytes)


class _FusedAttention(TorchFunctionMode):
    """Makes attention on meta tensors keep what CUDA's fused kernels keep.

    On the meta device torch would take the unfused form and keep every attention matrix.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # CUDA's fused kernels take [batch, heads, tokens, channels] only, as the stand-in does.
        if func is functional.scaled_dot_product_attention and args and args[0].ndim == 4:
            return _fused_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Autocast(TorchFunctionMode):
    """Runs a model on meta tensors with the number formats of CUDA's autocast.

    Without its cache of weights, as Lightning uses it: each operation makes half-precision copies
    of its own, and those live on that backward needs. Blocks that are recomputed keep none.

    Attributes:
        copies_bytes: Most bytes that copies of parameters have taken at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies_bytes = 0
        self._alive_bytes = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _IN_HALF:
            convert = self._to_half
        elif func in _IN_FP32:
            convert = _to_fp32
        else:
            return func(*args, **kwargs)
        args = tuple(_converted(value, convert) for value in args)
        return func(*args, **{key: _converted(value, convert) for key, value in kwargs.items()})

    def _to_half(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            return tensor.to(_HALF)
        copy = tensor.to(_HALF)
        storage = copy.untyped_storage()
        self._add(storage.nbytes())
        weakref.finalize(storage, self._add, -storage.nbytes())
        return copy

    def _add(self, size_bytes: int) -> None:
        self._alive_bytes += size_bytes
        self.copies_bytes = max(self.copies_bytes, self._alive_bytes)


def _to_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float()


def _converted(value: Any, convert: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Convert the floating-point tensors of one argument, lists of tensors included."""
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return [_converted(item, convert) for item in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return convert(value)
    return value


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Stand in for scaled_dot_product_attention with its memory-efficient CUDA form.

    Args:
        query: [batch, heads, tokens, channels].
        key: [batch, heads, keys, channels].
        value: [batch, heads, keys, channels].
        attn_mask: Broadcast to [batch, heads, tokens, keys]; boolean or added to the scores.
        dropout_p: Share of scores that are dropped; keeps only a seed.
        is_causal: Whether later keys are hidden.
        scale: Factor of the scores.
        enable_gqa: Whether several heads of the query share one of the keys.
    """
    if enable_gqa and key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    out: torch.Tensor
    out, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )
    return out
