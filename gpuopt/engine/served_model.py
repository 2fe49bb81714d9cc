"""A trained network as it is served: uint8 in, float32 logits out, precision in the graph.

There is no autocast: every cast is an operation of the graph, because ONNX and TensorRT take the
precision of a layer from there. Norms, softmax and head compute in fp32, the rest as asked.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from gpuopt.engine.folding import fold_batch_norms
from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.errors import FaultError, InputError, nearest
from gpuopt.recomputation import NONE
from gpuopt.recomputation.apply import apply_checkpointing

__all__ = ["DTYPES", "ServedModel", "example_images", "require_layers", "serve"]

_log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Share of the logits' spread by which folding, which is exact but for rounding, may change them.
_FOLDING_TOLERANCE = 1e-3


class ServedModel(nn.Module):
    """Normalises, classifies in one precision and returns fp32.

    Args:
        backbone: Is taken over and changed; in evaluation mode, in fp32.
        mean: Per channel, in the unit of the pixels (0..255).
        std: Per channel, in the unit of the pixels.
        precision: `fp32`, `fp16` or `bf16`.
        fp32_layers: Prefixes of module names that stay in fp32, beside norms and head.
        explicit_attention: Write attention out as products and softmax. The fused operation
            keeps its softmax in fp32 by itself; a graph for another runtime has to say so.
        channels_last: Memory format of images and weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        precision: str = "fp32",
        fp32_layers: tuple[str, ...] = (),
        explicit_attention: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self._dtype = DTYPES[precision]
        self._channels_last = channels_last
        self._explicit_attention = explicit_attention
        if self._dtype != torch.float32:
            _cast(self.backbone, self._dtype, fp32_layers)
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Classify.

        Args:
            images: uint8, or float32 in 0..255, [n, 3, s, s].

        Returns:
            Logits, float32 [n, classes].
        """
        pixels = ((images.to(torch.float32) - self.mean) / self.std).to(self._dtype)
        if self._channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self._dtype == torch.float32:
            return self._logits(pixels)
        with _Fp32Softmax(self._explicit_attention):
            return self._logits(pixels)

    def _logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.backbone(pixels)
        return logits.to(torch.float32)


class _Fp32Softmax(TorchFunctionMode):
    """Computes softmax in fp32 wherever the network calls it, and returns the caller's type."""

    def __init__(self, explicit_attention: bool) -> None:
        super().__init__()
        self._explicit_attention = explicit_attention

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.softmax, Tensor.softmax, functional.softmax):
            scores, *rest = args
            return func(scores.to(torch.float32), *rest, **kwargs).to(scores.dtype)
        if func is functional.scaled_dot_product_attention and self._explicit_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention as PyTorch defines it, with the softmax in fp32; evaluation only."""
    if is_causal or enable_gqa:  # not in image classifiers; the runtime's own way is then taken
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    # The query is scaled before the product, which could overflow fp16.
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    scores = scores.to(torch.float32)
    if attn_mask is not None:
        is_choice = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if is_choice else scores + attn_mask
    return scores.softmax(-1).to(value.dtype) @ value


def serve(
    network: TrainedNetwork, request: EngineRequest, *, explicit_attention: bool = False
) -> ServedModel:
    """Copy a network for serving on the request's device, with its BatchNorms folded.

    Args:
        network: Left unchanged.
        request: Precision, layers in fp32 and device.
        explicit_attention: See `ServedModel`.

    Raises:
        InputError: When the network has no such layer to keep in fp32.
        FaultError: When the network does not run on images of the request's size.
    """
    require_layers(network.backbone, request.fp32_layers)
    backbone = copy.deepcopy(network.backbone).cpu().float().eval()
    apply_checkpointing(backbone, NONE)  # recomputes for the backward pass, which there is not
    return ServedModel(
        _folded(backbone, request.image_size),
        network.mean,
        network.std,
        precision=request.precision,
        fp32_layers=request.fp32_layers,
        explicit_attention=explicit_attention,
        channels_last=network.uses_channels_last,
    ).to(request.device)


def require_layers(backbone: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Refuse prefixes that no module of a network has.

    Raises:
        InputError: Names the first, and modules with a similar name.
    """
    known = [name for name, _ in backbone.named_modules() if name]
    for prefix in prefixes:
        if prefix not in known:
            raise InputError(f"fp32_layers: no module is named {prefix}{nearest(prefix, known)}")


def example_images(request: EngineRequest, count: int = 2) -> Tensor:
    """Make uint8 images [count, 3, s, s] of noise on the request's device, to trace with."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, request.image_size, request.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return images.to(request.device)


@torch.inference_mode(False)
@torch.no_grad()
def _folded(backbone: nn.Module, image_size: int) -> nn.Module:
    example = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        before = backbone(example)
    except (AssertionError, RuntimeError, ValueError) as error:  # as each layer checks
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise FaultError(
            f"the network does not take images of {image_size}x{image_size} ({reason}): check "
            "image_size"
        ) from error
    folded = copy.deepcopy(backbone)
    try:
        count = fold_batch_norms(folded, example)
        after = folded(example)
    except (AttributeError, RuntimeError, TypeError) as error:  # code that looks at its norms
        _log.warning("BatchNorms are not folded: %s", error)
        return backbone
    tolerance = _FOLDING_TOLERANCE * float(before.abs().max()) + 1e-6
    if count and not float((after - before).abs().max()) <= tolerance:
        _log.warning("BatchNorms are not folded: the logits would change")
        return backbone
    return folded


def _cast(backbone: nn.Module, dtype: torch.dtype, fp32_layers: tuple[str, ...]) -> None:
    """Put all but the fp32 layers into half precision, and casts at their borders."""
    heads = {id(head) for head in _heads(backbone)}
    kept: set[int] = set()
    for name, module in backbone.named_modules():
        if id(module) in kept or not name:
            continue
        is_head = id(module) in heads
        if is_head or _is_norm(module) or _is_below(name, fp32_layers):
            kept |= {id(inner) for inner in module.modules()}
            module.register_forward_pre_hook(_casting_inputs(torch.float32), with_kwargs=True)
            if not is_head:  # the logits would be rounded to half precision
                module.register_forward_hook(_casting_outputs(dtype))
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            # What the network computes in fp32 on the way, such as position codes, may come here.
            module.register_forward_pre_hook(_casting_inputs(dtype), with_kwargs=True)
    # Not the whole network and then these back: their weights would be rounded, or overflow.
    for module in backbone.modules():
        if id(module) not in kept:
            for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if value.is_floating_point():
                    value.data = value.data.to(dtype)


def _heads(backbone: nn.Module) -> Iterator[nn.Module]:
    """Find the classifier: timm says which it is; else the last linear layer."""
    found: Any = getattr(backbone, "get_classifier", lambda: None)()
    candidates = found if isinstance(found, tuple) else (found,)
    heads = [module for module in candidates if isinstance(module, nn.Module)]
    heads = [head for head in heads if next(head.parameters(), None) is not None]
    yield from heads or [m for m in backbone.modules() if isinstance(m, nn.Linear)][-1:]


def _is_norm(module: nn.Module) -> bool:
    """Say whether a module normalises and nothing else: blocks bear the word in their names too."""
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        return True
    return "Norm" in type(module).__name__ and not any(
        isinstance(inner, nn.Linear | nn.Conv1d | nn.Conv2d) for inner in module.modules()
    )


def _is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _casting(value: Any, dtype: torch.dtype) -> Any:
    def cast(leaf: Any) -> Any:
        is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if is_float else leaf

    return tree_map(cast, value)


def _casting_inputs(dtype: torch.dtype) -> Callable[..., tuple[Any, Any]]:
    return lambda _, args, kwargs: (_casting(args, dtype), _casting(kwargs, dtype))


def _casting_outputs(dtype: torch.dtype) -> Callable[..., Any]:
    return lambda _, args, output: _casting(output, dtype)
