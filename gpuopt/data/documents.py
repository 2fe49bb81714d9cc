"""Synthetic documents in 17 classes: clean ones to train on, disturbed ones to test on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuopt.data.datamodule import ImageDataModule
from gpuopt.data.drawing import CLASS_NAMES, Disturbance, DocumentSet, Sample
from gpuopt.data.splits import DataSets, ImageSet
from gpuopt.errors import InputError
from gpuopt.storage import default_cache_dir

__all__ = ["Documents"]

_RANGES = {
    "drawn_size": (64, 4096),
    "train_count": (100, 99_999),
    "test_count": (1, 99_999),
    "drawing_seed": (0, (1 << 64) - 1),
}


class Documents(ImageDataModule):
    """Drawn document images in the shape of a document classification contest.

    The classes share layouts: medical certificates differ in the words of the title and in the
    body, receipts in tables and totals, cards in habits. Training images are clean; test images
    are turned, flipped, skewed, blurred, badly exposed and noisy, by known amounts. They are
    drawn once, into `cache_dir`. What a model scores on them says nothing about real documents.

    Args:
        drawn_size: Longest side of the drawn images in pixels.
        train_count: Number of training images.
        test_count: Number of test images.
        drawing_seed: Seed of the images; another one makes another data set.
        options: See `ImageDataModule`.

    Raises:
        InputError: For a value out of its range.
    """

    def __init__(
        self,
        *,
        drawn_size: int = 384,
        train_count: int = 1570,
        test_count: int = 3140,
        drawing_seed: int = 0,
        **options: Any,
    ) -> None:
        given = {
            "drawn_size": drawn_size,
            "train_count": train_count,
            "test_count": test_count,
            "drawing_seed": drawing_seed,
        }
        for name, value in given.items():
            low, high = _RANGES[name]
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"data.{name}={value} is not a whole number from {low} to {high}")
        self.documents = DocumentSet(drawing_seed, train_count, test_count, drawn_size)
        super().__init__(**options)

    def read_sets(self) -> DataSets:
        """Draw what is missing and list the files.

        Raises:
            InputError: When the cache folder cannot be written.
            FaultError: When the disk is full.
        """
        folder = (self.cache_dir or default_cache_dir()) / self.documents.folder_name
        self.documents.draw(folder)
        files, samples = self.documents.files(folder), self.documents.samples()
        split_at = self.documents.train_count

        def part(rows: slice) -> ImageSet:
            listed: tuple[Sample, ...] = samples[rows]
            targets = np.array([sample.target for sample in listed], np.int64)
            return ImageSet([sample.file_name for sample in listed], targets, files[rows])

        return DataSets(CLASS_NAMES, train=part(slice(split_at)), test=part(slice(split_at, None)))

    @property
    def test_conditions(self) -> dict[str, npt.NDArray[np.float64]]:
        """How each test image is disturbed: one array per field of `Disturbance`.

        Each array has one number per test sample, in the order of `test_ids`.
        """
        known = {
            sample.file_name: sample.disturbance
            for sample in self.documents.samples()[self.documents.train_count :]
        }
        table = np.array([known[name] for name in self.test_ids], np.float64)
        return {field: table[:, column] for column, field in enumerate(Disturbance._fields)}

    def condition_groups(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Group the test samples by disturbance, to report a score for each group.

        Returns:
            For each name a mask over the test samples, in the order of `test_ids`. An image may
            be in several groups; `clean` ones are not disturbed at all, `upright` ones may be
            flipped or skewed, but not turned.
        """
        found = self.test_conditions
        return {
            "clean": ~np.any(np.stack(list(found.values())) != 0, axis=0),
            "upright": found["turn"] == 0,
            "turned": found["turn"] != 0,
            "flipped": found["flip"] != 0,
            "blurred": found["blur"] != 0,
            "badly exposed": found["exposure"] != 0,
            "noisy": found["noise"] != 0,
        }
