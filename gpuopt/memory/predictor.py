"""How much GPU memory training a model takes, computed without a GPU.

The quick pass builds the model on the meta device, where tensors have shapes but no data, and
adds up what one forward pass keeps for backward at two batch sizes. Its sum with the parameters,
gradients, optimizer state and the CUDA context gave the largest batch that timm published for a
24 GB card in seven models of seven at 95 % of the memory.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from gpuopt.errors import InputError, nearest
from gpuopt.memory.autocast import emulate_cuda
from gpuopt.memory.live_bytes import LiveBytes

__all__ = ["CONTEXT_BYTES", "MemoryEstimate", "predict_memory"]

CONTEXT_BYTES = 800_000_000
_PARAMETER_AND_GRADIENT_BYTES = 4 + 4
_BATCHES = (8, 16)


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a training step as a straight line over the batch size.

    Attributes:
        bytes_per_sample: Kept for backward for each sample of a micro-batch.
        fixed_bytes: Parameters, gradients, optimizer state, buffers, cached half-precision weights.
        context_bytes: CUDA context and libraries, outside torch's allocator.
    """

    bytes_per_sample: int
    fixed_bytes: int
    context_bytes: int = CONTEXT_BYTES

    def peak_bytes(self, samples: int) -> int:
        """Return the predicted peak at a micro-batch of that many samples."""
        return self.context_bytes + self.fixed_bytes + samples * self.bytes_per_sample

    def largest_batch(self, budget_bytes: int) -> int:
        """Return the largest micro-batch within a budget; 0 when no sample fits."""
        return max(0, budget_bytes - self.peak_bytes(0)) // self.bytes_per_sample


def predict_memory(
    model_name: str,
    image_size: int,
    precision: str,
    *,
    checkpointing: bool = False,
    optimizer_bytes_per_parameter: int = 8,
    num_classes: int | None = None,
) -> MemoryEstimate:
    """Predict the memory of training one timm model with cross-entropy.

    Args:
        model_name: Any name that timm knows, without the `timm/` of its hub.
        image_size: Side of the square RGB images in pixels.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        checkpointing: Whether the model's blocks are recomputed in backward.
        optimizer_bytes_per_parameter: Optimizer state; 8 is AdamW in fp32.
        num_classes: Classes of the head; the model's own when None.

    Raises:
        InputError: timm does not know the model, or the model does not take that image size
            or cannot be run without data.
    """
    count = _live_bytes if checkpointing else _saved_bytes
    try:
        model = _build(model_name, image_size, num_classes)
        if checkpointing:
            _checkpoint(model, model_name)
        emulate_cuda(model, half=precision in ("bf16", "fp16"))
        at_small, at_large = (count(model, batch, image_size) for batch in _BATCHES)
    # What timm's models raise: TypeError for an option that they lack, AssertionError and
    # ValueError for a size that they do not take, RuntimeError for shapes and for missing data.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model.name={model_name}: its memory at image_size={image_size} cannot be predicted "
            f"({reason}); try another image_size, or give micro_batch_size"
        ) from error
    return _line(model, at_small, at_large, optimizer_bytes_per_parameter)


def _line(
    model: torch.nn.Module, at_small: int, at_large: int, optimizer_bytes_per_parameter: int
) -> MemoryEstimate:
    """Put a straight line through the bytes at the two batch sizes and add what is fixed."""
    small, large = _BATCHES
    per_sample = (at_large - at_small) // (large - small)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    state = parameters * (_PARAMETER_AND_GRADIENT_BYTES + optimizer_bytes_per_parameter)
    fixed = state + buffers + max(0, at_small - small * per_sample)
    return MemoryEstimate(bytes_per_sample=per_sample, fixed_bytes=fixed)


def _build(model_name: str, image_size: int, num_classes: int | None) -> torch.nn.Module:
    """Build a model in training mode on the meta device."""
    import timm  # takes seconds, and only a prediction needs it

    if not timm.is_model(model_name):
        names = timm.list_models()
        raise InputError(f"model.name={model_name}: unknown to timm{nearest(model_name, names)}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    config = timm.models.get_pretrained_cfg(model_name, allow_unregistered=True)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    try:
        with torch.device("meta"):
            model: torch.nn.Module = timm.create_model(model_name, pretrained=False, **options)
    except RuntimeError:  # some, as RegNet on torch 2.11, compute with tensors while they are built
        model = timm.create_model(model_name, pretrained=False, **options).to("meta")
    return model.train()


def _checkpoint(model: Any, model_name: str) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise InputError(
            f"model.name={model_name}: it has no activation checkpointing; switch it off"
        ) from error


def _loss(model: torch.nn.Module, batch: int, image_size: int) -> torch.Tensor:
    """Run forward and loss on images [batch, 3, image_size, image_size]."""
    images = torch.empty(batch, 3, image_size, image_size, device="meta")
    targets = torch.empty(batch, dtype=torch.int64, device="meta")
    return functional.cross_entropy(model(images).float(), targets)


def _saved_bytes(model: torch.nn.Module, batch: int, image_size: int) -> int:
    """Add up the storages that one forward pass keeps for backward, parameters left out."""
    tensors = (*model.parameters(), *model.buffers())
    known = {tensor.untyped_storage()._cdata for tensor in tensors}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage  # held, so that its address is not given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(model, batch, image_size)
    kept = (storage for address, storage in saved.items() if address not in known)
    return sum(int(storage.nbytes()) for storage in kept)


def _live_bytes(model: torch.nn.Module, batch: int, image_size: int) -> int:
    """Follow one forward and backward pass and return the highest sum of live bytes.

    Gradients exist beforehand, as in accumulation, so that only temporaries count.
    """
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    live = LiveBytes((*model.parameters(), *gradients, *model.buffers()))
    with live:
        torch.autograd.backward(_loss(model, batch, image_size))
    return live.peak_bytes
