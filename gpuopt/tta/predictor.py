"""Predict many views of a batch, merged, with one model or with several."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from gpuopt.errors import InputError
from gpuopt.tta.chunks import TooLittleMemoryError, ViewChunks
from gpuopt.tta.merging import OnlineMerge
from gpuopt.tta.views import View

__all__ = ["TooLittleMemoryError", "TtaPredictor"]


class TtaPredictor:
    """Merged class probabilities of a model over views of each image.

    Chunks have a constant shape and memory does not depend on the number of views; see
    `ViewChunks`. With several models, such as those of folds, every view is made once, each model's
    views are merged, and the models' probabilities averaged.

    In anyone's Lightning project, without Hydra and with any module:

        views = parse_views([{}, {"rotate": 90}, {"contrast": 1.15, "weight": 0.5}])
        predictor = TtaPredictor(module.eval(), views, device=module.device)
        probabilities = predictor(images)  # uint8 [n, 3, s, s]; the module normalises them

    Args:
        forward: From float32 images [chunk, 3, s, s] in 0..255 to logits [chunk, classes], or
            several such; the models behind must be in evaluation mode.
        views: The views; their weights need not sum to 1.
        device: Where images are moved and views are made.
        chunk_size: Images per forward; `auto` takes the size of the first batch. Halved, for
            good, whenever the device runs out of memory.
        merge: `mean` or `geometric`, of probabilities in fp32.
        autocast: Makes the context in which the models run.

    Raises:
        InputError: For no model, no views, a chunk below 1 or an unknown merge.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]],
        views: tuple[View, ...],
        *,
        device: torch.device | str = "cpu",
        chunk_size: int | Literal["auto"] = "auto",
        merge: str = "mean",
        autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        if merge not in ("mean", "geometric"):
            raise InputError(f"views are merged by mean or geometric, not {merge!r}")
        # A list of modules is callable as well, but a call only raises.
        forwards: list[Callable[[Tensor], Tensor]] = [
            *(forward if isinstance(forward, Sequence | nn.ModuleList) else [forward])
        ]
        self._chunks = ViewChunks(
            forwards, views, device=device, chunk_size=chunk_size, autocast=autocast
        )
        self._geometric = merge == "geometric"

    @property
    def views(self) -> tuple[View, ...]:
        """The views."""
        return self._chunks.views

    @property
    def device(self) -> torch.device:
        """Where images are moved and views are made."""
        return self._chunks.device

    @property
    def chunk_size(self) -> int | None:
        """Images per forward as used now; None before an `auto` size is known."""
        return self._chunks.chunk_size

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
        return _mean([merged for merged, _ in self._predict(images)])

    def of_each_model(self, images: Tensor) -> list[Tensor]:
        """Predict a batch with every model alone; arguments and errors as for calling.

        Returns:
            Probabilities of each model, float32 [n, classes] on the device.
        """
        return [merged for merged, _ in self._predict(images)]

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
        results = self._predict(images)
        return _mean([merged for merged, _ in results]), _mean([single for _, single in results])

    @torch.inference_mode()
    def _predict(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        merges = [
            OnlineMerge(self.views, len(images), geometric=self._geometric)
            for _ in range(self._chunks.models)
        ]

        def receive(view: int, first_sample: int, log_probabilities: Sequence[Tensor]) -> None:
            for merge, said in zip(merges, log_probabilities, strict=True):
                merge.add(view, first_sample, said)

        self._chunks.run(images, receive)
        return [merge.result() for merge in merges]


def _mean(of_models: Sequence[Tensor]) -> Tensor:
    """Average in the order of the models, as sums over several passes do."""
    if len(of_models) == 1:
        return of_models[0]
    total = of_models[0].clone()
    for probabilities in of_models[1:]:
        total += probabilities
    return total / len(of_models)
