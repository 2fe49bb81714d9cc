"""Images that nobody looks at: batches of any size for measuring, without the user's data."""

from typing import Any

import numpy as np
import torch

from gpuopt.data import ImageDataModule
from gpuopt.data.augmentation import AUGMENTATION_UNIFORMS
from gpuopt.data.batch import Batch
from gpuopt.data.image_store import ArrayImages
from gpuopt.data.splits import DataSets, ImageSet

__all__ = ["SyntheticImages"]

_DIFFERENT = 8


class SyntheticImages(ImageDataModule):
    """Random pixels, mixed and augmented on the device as the user's images are.

    Args:
        classes: Number of classes.
        options: See `ImageDataModule`.
    """

    def __init__(self, *, classes: int, **options: Any) -> None:
        super().__init__(micro_batch_size=1, global_batch_size=1, cache="off", **options)
        self._classes = classes

    def read_sets(self) -> DataSets:
        """Draw a few images."""
        names = [str(number) for number in range(self._classes)]
        targets = np.arange(_DIFFERENT, dtype=np.int64) % self._classes

        def part(name: str) -> ImageSet:
            ids = [f"{name}_{row}" for row in range(_DIFFERENT)]
            return ImageSet(ids, targets, ArrayImages(self._pixels().numpy()))

        return DataSets(names, train=part("train"), validation=part("validation"))

    def batch(self, samples: int, stage: str) -> Batch:
        """Make a batch on the host, of the shapes and types that the loaders yield.

        Args:
            samples: Its size; images repeat.
            stage: `train` or `validate`.

        Returns:
            For training with mixing, each image has a partner.
        """
        rows = torch.arange(samples) % _DIFFERENT
        images = self._pixels()[rows]
        is_mixed = stage == "train" and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)
        targets = rows % self._classes
        return Batch(
            images=images,
            targets=targets,
            ids=rows,
            weights=torch.full((samples,), 1 / samples if stage == "train" else 1.0),
            partner_targets=targets.flip(0) if is_mixed else targets,
            mix_ratios=torch.full((samples,), 0.5 if is_mixed else 1.0),
            partner_images=images.flip(0) if is_mixed else images[:0],
            boxes=torch.zeros(samples, 4, dtype=torch.int64),
            uniforms=torch.rand(samples, AUGMENTATION_UNIFORMS),
        )

    def _pixels(self) -> torch.Tensor:
        size = (_DIFFERENT, 3, self.image_size, self.image_size)
        return torch.randint(0, 256, size, dtype=torch.uint8)
