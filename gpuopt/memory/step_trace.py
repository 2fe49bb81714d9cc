"""One step of gpuopt's classifier over tensors without data, and what is alive at each moment."""

import torch
from torch import Tensor
from torch.nn import functional

from gpuopt.memory.estimate import Line, highest_lines
from gpuopt.memory.live_bytes import LiveBytes
from gpuopt.memory.meta_model import MetaModel

__all__ = ["follow_step", "step_lines"]

# A prime that is no dimension of a model's weights and maps; tensors without data may be large.
_PRIME_SAMPLES = 10_007


def step_lines(
    model: MetaModel, *, training: bool, accumulates: bool = True, apart: bool = False
) -> tuple[Line, ...]:
    """Find the moments of a step that are its peak at some batch size.

    Args:
        model: In training or evaluation mode.
        training: Whether to follow forward and backward pass, or a forward pass alone.
        accumulates: Whether the backward pass adds to gradients that are there.
        apart: Whether it does so at its end, and keeps its own beside them until then.

    Returns:
        Bytes alive at these moments, without parameters, gradients and buffers; less than 0 where
        gradients are not there yet.
    """
    live = follow_step(
        model, _PRIME_SAMPLES, training=training, accumulates=accumulates, apart=apart
    )
    return highest_lines(Line(fixed, each) for fixed, each in set(live.history))


def follow_step(
    model: MetaModel,
    samples: int,
    *,
    training: bool,
    accumulates: bool = True,
    apart: bool = False,
) -> LiveBytes:
    """Follow one step of that many samples.

    Where it accumulates, gradients exist beforehand, so that only temporaries count. Else the last
    step's are there during the forward pass, after which Lightning drops them, and each
    gradient appears when the backward pass has come to it; so do a pass's own that are kept apart,
    on top of those that were there.
    """
    gradients = []
    adds_in_place = training and accumulates and not apart
    for parameter in model.parameters:
        parameter.grad = torch.empty_like(parameter) if adds_in_place else None
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    live = LiveBytes((*model.parameters, *gradients, *model.buffers), samples)
    with live:
        if training:
            loss = _forward(model, samples)
            moments = len(live.history)
            torch.autograd.backward(loss[0])
        else:
            _inference_step(model, samples)
    if training and not accumulates:
        weights_bytes = sum(parameter.nbytes for parameter in model.parameters)
        for index in range(moments, len(live.history)):
            fixed, each = live.history[index]
            live.history[index] = (fixed - weights_bytes, each)
    return live


def _forward(model: MetaModel, samples: int) -> tuple[Tensor, ...]:
    """Return the loss, and the images that are held beside it until the step's end."""
    images = _images(model, samples)
    # The report of a loss that is not finite needs the step before, whose value is still on its
    # way; `gpuopt.callbacks.NonFiniteLoss` holds it. The uint8 images are gone by now: mixing and
    # augmentation come first, when no activation is there, and need less than any step.
    earlier = _images(model, samples)
    targets = torch.empty(samples, dtype=torch.int64, device="meta")
    loss = functional.cross_entropy(_logits(model, images).float(), targets)
    return loss, images, earlier


@torch.no_grad()
def _inference_step(model: MetaModel, samples: int) -> None:
    loaded = torch.empty(
        samples, 3, model.image_size, model.image_size, dtype=torch.uint8, device="meta"
    )
    view = _images(model, samples)  # of test-time augmentation
    _logits(model, view).float()
    del loaded, view


def _logits(model: MetaModel, images: Tensor) -> Tensor:
    """Classify, holding the normalised images as `gpuopt.model.Classifier.forward` does."""
    normalised = torch.empty_like(images)
    logits: Tensor = model.network(normalised)
    return logits


def _images(model: MetaModel, samples: int) -> Tensor:
    """Make float32 images [samples, 3, s, s]."""
    return torch.empty(samples, 3, model.image_size, model.image_size, device="meta")
