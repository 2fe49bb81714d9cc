"""A split as batches: the sampler says which samples, the dataset reads and labels them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from gpuopt.data.augmentation import AUGMENTATION_UNIFORMS
from gpuopt.data.batch import Batch
from gpuopt.data.counter_random import Stream, random_uniforms
from gpuopt.data.image_store import ImageStore
from gpuopt.data.window_sampler import Chunk

__all__ = ["ImageDataset", "Split"]


@dataclass(frozen=True)
class Split:
    """Labelled images of one part of the data.

    Attributes:
        ids: Names by which a person knows the samples.
        targets: int64 [samples], -1 where unknown.
        images: The store that holds them.
        rows: int64 [samples], each sample's row in the store.
        groups: Name of each sample's group, where the data has groups.
    """

    ids: Sequence[str]
    targets: npt.NDArray[np.int64]
    images: ImageStore
    rows: npt.NDArray[np.int64]
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, places: npt.NDArray[np.int64]) -> "Split":
        """Return the samples at these places, in this order."""
        ids = [self.ids[place] for place in places]
        groups = None if self.groups is None else [self.groups[place] for place in places]
        return Split(ids, self.targets[places], self.images, self.rows[places], groups)


class ImageDataset(Dataset[Batch]):
    """Turns a chunk of row numbers into a `Batch`.

    Args:
        split: The samples.
        seed: Seed of the augmentation's numbers.
    """

    def __init__(self, split: Split, seed: int) -> None:
        self._images = split.images
        self._rows = split.rows
        self._targets = split.targets
        self._seed = seed

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, chunk: Chunk) -> Batch:
        """Read one micro-batch.

        Raises:
            FaultError: When an image file has become unreadable.
        """
        count = len(chunk.indices)
        images = self.read(chunk.indices)
        mixed = chunk.partners is not None
        partners = chunk.partners if chunk.partners is not None else chunk.indices
        box = torch.tensor(chunk.box, dtype=torch.int64)
        return Batch(
            images=images,
            targets=torch.from_numpy(self._targets[chunk.indices]),
            ids=torch.from_numpy(chunk.indices.astype(np.int64)),
            weights=torch.from_numpy(chunk.weights.copy()),
            partner_targets=torch.from_numpy(self._targets[partners]),
            mix_ratios=torch.full((count,), chunk.mix_ratio),
            partner_images=self.read(partners) if mixed else images[:0].clone(),
            boxes=box.repeat(count, 1),
            uniforms=self._uniforms(chunk),
        )

    def read(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Read images by their rows in the split, as uint8 [n, 3, s, s].

        Raises:
            FaultError: When an image file has become unreadable.
        """
        return torch.from_numpy(self._images.read(self._rows[indices]))

    def fingerprint(self) -> str:
        """Digest what decides about images and targets, in their order, without reading images."""
        digest = hashlib.sha256(self._images.fingerprint().encode())
        for numbers in (self._rows, self._targets):
            digest.update(np.ascontiguousarray(numbers, np.int64).tobytes())
        return digest.hexdigest()

    def _uniforms(self, chunk: Chunk) -> torch.Tensor:
        if chunk.epoch is None:
            return torch.zeros(len(chunk.indices), AUGMENTATION_UNIFORMS)
        stream, count = Stream.AUGMENTATION, AUGMENTATION_UNIFORMS
        return torch.from_numpy(
            random_uniforms(self._seed, stream, chunk.epoch, chunk.indices, count)
        )
