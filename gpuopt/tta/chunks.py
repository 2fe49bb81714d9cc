"""What models say of views of images, in chunks of constant shape and constant memory."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import torch
from torch import Tensor

from gpuopt.errors import FaultError, InputError
from gpuopt.memory.device_errors import is_out_of_memory
from gpuopt.tta.apply import apply_view
from gpuopt.tta.views import View

__all__ = ["Receiver", "TooLittleMemoryError", "ViewChunks"]

_log = logging.getLogger(__name__)
# A class that a model rules out (a logit of minus infinity) stays a number that can be averaged
# and kept in half precision: no probability in fp32 is near exp of this.
_LOWEST = -10_000.0


class TooLittleMemoryError(FaultError):
    """Not even one image at a time can be predicted on the device."""


class Receiver(Protocol):
    """Takes what each model says about consecutive samples in one view."""

    def __call__(self, view: int, first_sample: int, log_probabilities: Sequence[Tensor]) -> None:
        """Take float32 [m, classes] of every model; the tensors are not changed afterwards."""


class ViewChunks:
    """Runs models over all (view, sample) pairs of a batch, view by view.

    The list of pairs is cut into chunks of one shape, so that a compiled model or a CUDA graph
    sees a single one; the last chunk is filled up with repeated images whose outputs are dropped.
    A view exists only while its chunk is computed, and is made once for all models: memory depends
    on the chunk, not on the number of views.

    Args:
        forwards: The models, each from float32 images [chunk, 3, s, s] in 0..255 to logits
            [chunk, classes]; those behind must be in evaluation mode.
        views: At least one.
        device: Where images are moved and views are made.
        chunk_size: Images per forward; `auto` takes the size of the first batch. Halved, for
            good, whenever the device runs out of memory.
        autocast: Makes the context in which the models run.

    Raises:
        InputError: For no model, no view or a chunk below 1.
    """

    def __init__(
        self,
        forwards: Sequence[Callable[[Tensor], Tensor]],
        views: Sequence[View],
        *,
        device: torch.device | str = "cpu",
        chunk_size: int | Literal["auto"] = "auto",
        autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        if not forwards:
            raise InputError("test-time augmentation needs at least one model")
        if not views:
            raise InputError("test-time augmentation needs at least one view")
        if chunk_size != "auto" and chunk_size < 1:
            raise InputError(f"the chunk size must be at least 1, not {chunk_size}")
        self.views = tuple(views)
        self.device = torch.device(device)
        self.chunk_size = None if chunk_size == "auto" else chunk_size
        self._forwards = tuple(forwards)
        self._autocast = autocast

    @property
    def models(self) -> int:
        """Number of models."""
        return len(self._forwards)

    @torch.inference_mode()
    def run(self, images: Tensor, receive: Receiver) -> None:
        """Compute every view of a batch with every model.

        Args:
            images: uint8 or float32 [n, 3, s, s] in 0..255.
            receive: Called for every run of samples of one view, in order; never twice for one.

        Raises:
            InputError: For images of another shape, or none.
            TooLittleMemoryError: When not even one image fits into the device's memory.
        """
        if images.ndim != 4 or not len(images) or images.shape[2] != images.shape[3]:
            raise InputError(f"images must be [n, 3, s, s] with n > 0, not {list(images.shape)}")
        images = images.to(self.device, non_blocking=True)
        chunk_size = self.chunk_size = self.chunk_size or len(images)
        start, end = 0, len(self.views) * len(images)
        while start < end:
            stop = min(start + chunk_size, end)
            scores = self._log_probabilities(images, start, stop, chunk_size)
            if scores is None:
                chunk_size = self.chunk_size = self._halved(chunk_size, images)
                continue
            for view, first, last, offset in _pieces(start, stop, len(images)):
                rows = slice(offset, offset + last - first)
                receive(view, first, [of_model[rows] for of_model in scores])
            start = stop

    def _log_probabilities(
        self, images: Tensor, start: int, stop: int, chunk_size: int
    ) -> list[Tensor] | None:
        """Compute one chunk, float32 [stop - start, classes] per model, or None without memory.

        The error stays inside: by the time the caller reacts, its traceback and with it every
        tensor of the failed attempt is gone.
        """
        try:
            chunk = self._chunk(images, start, stop, chunk_size)
            scores = []
            for forward in self._forwards:
                with self._autocast():
                    logits = forward(chunk)
                scores.append(logits[: stop - start].float().log_softmax(1).clamp_(min=_LOWEST))
                del logits  # not beside the next model's activations
        except RuntimeError as error:  # cuDNN and cuBLAS have other words for it than PyTorch
            if not is_out_of_memory(error):
                raise
            return None
        return scores

    def _chunk(self, images: Tensor, start: int, stop: int, chunk_size: int) -> Tensor:
        shape = (chunk_size, *images.shape[1:])
        chunk = torch.empty(shape, dtype=torch.float32, device=images.device)
        for view, first, last, offset in _pieces(start, stop, len(images)):
            chunk[offset : offset + last - first] = apply_view(self.views[view], images[first:last])
        filled = stop - start
        while filled < chunk_size:
            more = min(filled, chunk_size - filled)
            chunk[filled : filled + more] = chunk[:more]
            filled += more
        return chunk

    def _halved(self, chunk_size: int, images: Tensor) -> int:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if chunk_size == 1:
            size = images.shape[-1]
            raise TooLittleMemoryError(
                f"{self.device} has not enough memory for one image of {size}x{size}; free memory "
                "on it, or choose a smaller image_size or model"
            )
        _log.warning(
            "prediction: %s ran out of memory with %d images per forward; going on with %d "
            "(pin with tta.chunk_size=%d)",
            self.device,
            chunk_size,
            chunk_size // 2,
            chunk_size // 2,
        )
        return chunk_size // 2


def _pieces(start: int, stop: int, samples: int) -> Iterator[tuple[int, int, int, int]]:
    """Split work items into runs of one view: view, first and last sample, offset in the chunk."""
    position = start
    while position < stop:
        view, first = divmod(position, samples)
        last = min(samples, first + stop - position)
        yield view, first, last, position - start
        position += last - first
