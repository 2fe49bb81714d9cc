"""scikit-learn's 1,797 real handwritten digits, enlarged: a small real data set for tests."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from gpuopt.data.datamodule import ImageDataModule
from gpuopt.data.image_store import ArrayImages
from gpuopt.data.limits import check_ratio
from gpuopt.data.splits import DataSets, ImageSet
from gpuopt.data.splitting import stratified_split

__all__ = ["Digits"]

_SPLIT_SEED = 0  # the test images are the same in every run
_GREY_LEVELS = 16


class Digits(ImageDataModule):
    """Ten classes of 8x8 grey digits, enlarged to `image_size`, white on black.

    Source: Alpaydin and Kaynak, UCI "Optical recognition of handwritten digits", CC BY 4.0.

    Args:
        test_ratio: Share of the images that are kept for the test.
        options: See `ImageDataModule`.

    Raises:
        InputError: For a value out of its range.
    """

    def __init__(self, *, test_ratio: float = 0.25, **options: Any) -> None:
        check_ratio("test_ratio", test_ratio)
        self.test_ratio = test_ratio
        super().__init__(**options)

    def read_sets(self) -> DataSets:
        """Enlarge the digits and set a fixed, stratified part aside for the test."""
        digits = load_digits()
        targets = digits.target.astype(np.int64)
        names = [str(name) for name in digits.target_names]
        images = _enlarged(digits.images, self.image_size)
        train, test = stratified_split(targets, self.test_ratio, _SPLIT_SEED, names)

        def part(rows: npt.NDArray[np.int64]) -> ImageSet:
            ids = [f"digit_{row:04d}" for row in rows]
            return ImageSet(ids, targets[rows], ArrayImages(images[rows]))

        return DataSets(names, train=part(train), test=part(test))


def _enlarged(images: npt.NDArray[np.float64], image_size: int) -> npt.NDArray[np.uint8]:
    grey = torch.from_numpy(images).float().unsqueeze(1) * (255 / _GREY_LEVELS)
    side = (image_size, image_size)
    enlarged = F.interpolate(grey, side, mode="bilinear", antialias=True).round().clamp(0, 255)
    return enlarged.to(torch.uint8).numpy()
