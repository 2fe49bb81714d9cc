"""A torch callable as an engine: checked images, padded to the batch sizes it is made for."""

import bisect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gpuopt.engine.protocol import EngineRequest
from gpuopt.errors import InputError
from gpuopt.memory.device_errors import is_out_of_memory

__all__ = ["CallableEngine", "padded", "require_images"]


class CallableEngine:
    """Calls a function with images of given batch sizes only, and drops the padding's logits.

    Args:
        name: The backend.
        request: What the engine was asked to be.
        run: From uint8 [n, 3, s, s] to float32 logits [n, classes], on the request's device.
        batch_sizes: What n may be, ascending, the last one the maximum; None: anything up to the
            request's maximum. Where memory runs out for one of them, its half is added.
    """

    def __init__(
        self,
        name: str,
        request: EngineRequest,
        run: Callable[[Tensor], Tensor],
        batch_sizes: Sequence[int] | None = None,
    ) -> None:
        self.name = name
        self.device = request.device
        self.precision = request.precision
        self.max_batch_size = request.max_batch_size
        self._request = request
        self._run = run
        self._batch_sizes = None if batch_sizes is None else list(batch_sizes)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Classify images; see `Engine`.

        Raises:
            InputError: When they are not what the engine was built for.
        """
        require_images(images, self._request)
        if self._batch_sizes is None:
            return self._run(images)
        size = next(size for size in self._batch_sizes if size >= len(images))
        batch = padded(images, size)
        # Compiled code is made anew for tensors that were not made in inference mode.
        batch = batch if batch.is_inference() else batch.clone()
        try:
            return self._run(batch)[: len(images)]
        except RuntimeError as error:
            # A caller then comes with half as many, which must not be filled up to as many again.
            if is_out_of_memory(error) and size > 1 and size // 2 not in self._batch_sizes:
                bisect.insort(self._batch_sizes, size // 2)
            raise


def padded(images: Tensor, batch_size: int) -> Tensor:
    """Fill a batch up with its own images, again and again, to [batch_size, 3, s, s]."""
    missing = batch_size - len(images)
    if missing == 0:
        return images
    repeats = -(-batch_size // len(images))
    return images.repeat(repeats, 1, 1, 1)[:batch_size]


def require_images(images: Tensor, request: EngineRequest) -> None:
    """Refuse what an engine was not built for: many would compute nonsense or crash.

    Raises:
        InputError: Names what was given and what is needed.
    """
    size = request.image_size
    is_right = images.dtype == torch.uint8 and tuple(images.shape[1:]) == (3, size, size)
    if not is_right or not 1 <= len(images) <= request.max_batch_size:
        raise InputError(
            f"the engine takes uint8 images [1 to {request.max_batch_size}, 3, {size}, {size}], "
            f"not {str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        )
