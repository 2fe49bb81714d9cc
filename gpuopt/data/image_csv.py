"""Images listed by a CSV, the shape of most contests."""

from pathlib import Path
from typing import Any

import numpy as np

from gpuopt.data.csv_table import CsvTable, read_csv
from gpuopt.data.datamodule import ImageDataModule
from gpuopt.data.image_files import existing_folder, list_images, listed_files, shown
from gpuopt.data.splits import DataSets, ImageSet
from gpuopt.errors import InputError, nearest
from gpuopt.storage import place_below

__all__ = ["ImageCsv"]


class ImageCsv(ImageDataModule):
    """A CSV of file names and classes beside a folder of images.

    All paths are relative to `root`, if that is given. File names are relative to the image
    folder, with or without their ending; one that leads out of it is refused. Without
    `classes_csv` the classes are the values of the target column, in numerical or else
    alphabetical order.

    Args:
        root: Folder that the other paths are relative to.
        train_csv: CSV of the training images.
        train_dir: Folder of the training images.
        test_csv: CSV of the test images. Its target column, where there is one, is used unless
            all its values are the same, as in a contest's sample of a submission.
        test_dir: Folder of the test images; without `test_csv` all images in it are tested.
        id_column: Column of the file names; None takes the first one.
        target_column: Column of the classes.
        group_column: Column of `train_csv` with the group of each image, such as a patient; no
            group is both trained and validated on. None: every image stands alone.
        classes_csv: CSV with the value of the target column and the name of each class in its
            first two columns; it fixes the order of the classes.
        options: See `ImageDataModule`.

    Raises:
        InputError: For a value out of its range.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        train_csv: str | Path = "train.csv",
        train_dir: str | Path = "train",
        test_csv: str | Path | None = None,
        test_dir: str | Path | None = None,
        id_column: str | None = None,
        target_column: str = "target",
        group_column: str | None = None,
        classes_csv: str | Path | None = None,
        **options: Any,
    ) -> None:
        if test_csv is not None and test_dir is None:
            raise InputError("data.test_csv needs data.test_dir, the folder of its images")
        self.train_csv = place_below(root, train_csv)
        self.train_dir = place_below(root, train_dir)
        self.test_csv, self.test_dir, self.classes_csv = (
            None if place is None else place_below(root, place)
            for place in (test_csv, test_dir, classes_csv)
        )
        self.id_column = id_column
        self.target_column = target_column
        self.group_column = group_column
        super().__init__(**options)

    def read_sets(self) -> DataSets:
        """Read the lists and find their files.

        Raises:
            InputError: For missing files or columns, repeated ids, and empty or unknown classes.
        """
        table = read_csv(self.train_csv, "data.train_csv")
        ids = table.unique(self._id_column(table))
        values = table.filled(self.target_column)
        known = self._classes(values)
        folder = existing_folder(self.train_dir, "data.train_dir")
        train = ImageSet(
            ids,
            _targets(values, known, self.train_csv),
            listed_files(ids, folder, self.train_csv),
            groups=table.filled(self.group_column) if self.group_column else None,
        )
        return DataSets(list(known.values()), train, test=self._test_set(known))

    def _test_set(self, known: dict[str, str]) -> ImageSet | None:
        if self.test_dir is None:
            return None
        folder = existing_folder(self.test_dir, "data.test_dir")
        if self.test_csv is None:
            files = list_images(folder)
            ids = [shown(file.relative_to(folder)) for file in files]
            return ImageSet(ids, np.full(len(ids), -1, np.int64), files)
        table = read_csv(self.test_csv, "data.test_csv")
        ids = table.unique(self._id_column(table))
        files = listed_files(ids, folder, self.test_csv)
        values = table.column(self.target_column) if self.target_column in table.names else []
        if len(set(values)) < 2:  # absent, empty, or the placeholder of a sample submission
            return ImageSet(ids, np.full(len(ids), -1, np.int64), files)
        values = table.filled(self.target_column)
        return ImageSet(ids, _targets(values, known, self.test_csv), files)

    def _id_column(self, table: CsvTable) -> str:
        return self.id_column if self.id_column is not None else table.names[0]

    def _classes(self, values: list[str]) -> dict[str, str]:
        """Map each value of the target column to the name of its class, in order."""
        if self.classes_csv is None:
            distinct = set(values)
            try:
                # By their text where numbers are equal, as 1 and 01, and the same on every rank.
                ordered = sorted(distinct, key=lambda value: (int(value), value))
                return {value: value for value in ordered}
            except ValueError:
                return {value: value for value in sorted(distinct)}
        table = read_csv(self.classes_csv, "data.classes_csv")
        if len(table.names) < 2:
            raise InputError(
                f"{shown(table.file)} has one column: it needs the target and the class name"
            )
        keys, names = table.unique(table.names[0]), table.unique(table.names[1])
        return dict(zip(keys, names, strict=True))


def _targets(values: list[str], known: dict[str, str], source: Path) -> np.ndarray[Any, Any]:
    places = {value: place for place, value in enumerate(known)}
    for row, value in enumerate(values):
        if value not in places:
            raise InputError(
                f"{shown(source)}, data row {row + 1}: class {value!r} is unknown"
                f"{nearest(value, places)}"
            )
    return np.array([places[value] for value in values], np.int64)
