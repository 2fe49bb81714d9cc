"""Predict many views of a batch in chunks of constant shape and constant memory."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from gpuopt.errors import FaultError, InputError
from gpuopt.tta.apply import apply_view
from gpuopt.tta.merging import OnlineMerge
from gpuopt.tta.views import View

__all__ = ["TooLittleMemoryError", "TtaPredictor"]

_log = logging.getLogger(__name__)


class TooLittleMemoryError(FaultError):
    """Not even one image at a time can be predicted on the device."""


class TtaPredictor:
    """Merged class probabilities of a model over views of each image.

    The work is the list of all (view, sample) pairs, view by view. It is cut into chunks of one
    shape, so that a compiled model or a CUDA graph sees a single one; the last chunk is filled
    up with repeated images whose outputs are dropped. A view exists only while its chunk is
    computed: memory depends on the chunk, not on the number of views.

    Args:
        forward: From float32 images [chunk, 3, s, s] in 0..255 to logits [chunk, classes]; the
            model behind it must be in evaluation mode.
        views: The views; their weights need not sum to 1.
        device: Where images are moved and views are made.
        chunk_size: Images per forward; `auto` takes the size of the first batch. Halved, for
            good, whenever the device runs out of memory.
        merge: `mean` or `geometric`, of probabilities in fp32.
        autocast: Makes the context in which the model runs.

    Raises:
        InputError: For no views, a chunk below 1 or an unknown merge.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        views: tuple[View, ...],
        *,
        device: torch.device | str = "cpu",
        chunk_size: int | Literal["auto"] = "auto",
        merge: str = "mean",
        autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        if not views:
            raise InputError("test-time augmentation needs at least one view")
        if chunk_size != "auto" and chunk_size < 1:
            raise InputError(f"the chunk size must be at least 1, not {chunk_size}")
        if merge not in ("mean", "geometric"):
            raise InputError(f"views are merged by mean or geometric, not {merge!r}")
        self.views = tuple(views)
        self.device = torch.device(device)
        self._forward = forward
        self._chunk_size = None if chunk_size == "auto" else chunk_size
        self._geometric = merge == "geometric"
        self._autocast = autocast

    @property
    def chunk_size(self) -> int | None:
        """Images per forward as used now; None before an `auto` size is known."""
        return self._chunk_size

    def __call__(self, images: Tensor) -> Tensor:
        """Predict a batch.

        Args:
            images: uint8 or float32 [n, 3, s, s] in 0..255.

        Returns:
            Probabilities, float32 [n, classes] on the device.

        Raises:
            InputError: For images of another shape, or none.
            TooLittleMemoryError: When not even one image fits into the device's memory.
        """
        return self._predict(images)[0]

    def with_single_view(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict a batch with and without test-time augmentation in one pass.

        Args:
            images: As for calling the predictor.

        Returns:
            Merged probabilities, and those of the unchanged images alone.

        Raises:
            InputError: As for calling; also when the first view is not the identity.
            TooLittleMemoryError: As for calling.
        """
        if not self.views[0].is_identity:
            raise InputError(
                f"the first view is '{self.views[0].name}'; predictions without test-time "
                "augmentation come from the same pass only when it is {}"
            )
        return self._predict(images)

    @torch.inference_mode()
    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim != 4 or not len(images) or images.shape[2] != images.shape[3]:
            raise InputError(f"images must be [n, 3, s, s] with n > 0, not {list(images.shape)}")
        images = images.to(self.device, non_blocking=True)
        merge = OnlineMerge(self.views, len(images), geometric=self._geometric)
        chunk_size = self._chunk_size = self._chunk_size or len(images)
        start, end = 0, len(self.views) * len(images)
        while start < end:
            stop = min(start + chunk_size, end)
            scores = self._log_probabilities(images, start, stop, chunk_size)
            if scores is None:
                chunk_size = self._chunk_size = self._halved(chunk_size, images)
                continue
            for view, first, last, offset in _pieces(start, stop, len(images)):
                merge.add(view, first, scores[offset : offset + last - first])
            start = stop
        return merge.result()

    def _log_probabilities(
        self, images: Tensor, start: int, stop: int, chunk_size: int
    ) -> Tensor | None:
        """Compute one chunk, float32 [stop - start, classes], or None when memory ran out.

        The error stays inside: by the time the caller reacts, its traceback and with it every
        tensor of the failed attempt is gone.
        """
        try:
            chunk = self._chunk(images, start, stop, chunk_size)
            with self._autocast():
                logits = self._forward(chunk)
            return logits[: stop - start].float().log_softmax(1)
        except torch.OutOfMemoryError:
            return None

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
