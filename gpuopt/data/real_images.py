"""Real images of a data set as they are, for what has to be tried on some of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from gpuopt.data.dataset import ImageDataset, Split
from gpuopt.data.prediction import PredictionImages

if TYPE_CHECKING:
    from gpuopt.data.datamodule import ImageDataModule

__all__ = ["real_images"]


def real_images(
    source: "ImageDataModule | PredictionImages", count: int
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Read images that a model meets, decoded and resized, without augmentation.

    Of a data set the validation images come first, and where they are too few those of training.
    Each part is taken from evenly, since many are sorted by class.

    Args:
        source: A data module that is set up, or images without classes.
        count: How many; fewer when there are fewer.

    Returns:
        uint8 [n, 3, s, s], and the name of each.

    Raises:
        FaultError: When an image file has become unreadable.
    """
    if isinstance(source, PredictionImages):
        splits: Sequence[Split] = (source._split,)
    else:
        splits = (source._splits.validation, source._splits.train)
    parts: list[torch.Tensor] = []
    names: list[str] = []
    for split in splits:
        places = _spread(len(split), count - len(names))
        if len(places):
            parts.append(ImageDataset(split, seed=0).read(places))
            names += [split.ids[place] for place in places.tolist()]
    return torch.cat(parts), tuple(names)


def _spread(available: int, wanted: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Choose places all over a split, each once."""
    taken = min(available, wanted)
    return (np.arange(taken) * available // max(1, taken)).astype(np.int64)
