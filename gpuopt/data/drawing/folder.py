"""The whole set as a folder of JPEG files and CSV tables, drawn once, in parallel processes."""

import errno
import functools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuopt.data.drawing.catalogue import CLASS_NAMES, SAMPLES_PER_CLASS
from gpuopt.data.drawing.disturbance import Disturbance
from gpuopt.data.drawing.samples import (
    GENERATOR_VERSION,
    SPLITS,
    Sample,
    draw_sample,
    list_samples,
)
from gpuopt.data.parallel_rows import work_through
from gpuopt.data.row_ledger import RowLedger
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import atomic_write, wait_for_folder, write_text

__all__ = ["DocumentSet"]

_JPEG_QUALITY = 88
_USUAL_TRAIN_COUNT = sum(SAMPLES_PER_CLASS)
_USUAL_COUNTS = (_USUAL_TRAIN_COUNT, 2 * _USUAL_TRAIN_COUNT)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DocumentSet:
    """A set of document images, given by a few numbers.

    Attributes:
        seed: Seed of all chance.
        train_count: Number of clean training images.
        test_count: Number of disturbed test images.
        size_px: Longest side of the images in pixels.
    """

    seed: int
    train_count: int
    test_count: int
    size_px: int

    @property
    def folder_name(self) -> str:
        """Name of the set's folder, unlike that of any other set or generator."""
        name = f"documents-v{GENERATOR_VERSION}-{self.size_px}-{self.seed}"
        counts = (self.train_count, self.test_count)
        return name if counts == _USUAL_COUNTS else f"{name}-{counts[0]}x{counts[1]}"

    def samples(self) -> tuple[Sample, ...]:
        """List the training samples, then the test samples."""
        return _samples(self)

    def files(self, folder: Path) -> list[Path]:
        """List the image files in the order of `samples`."""
        folders = [folder / split for split in SPLITS]
        return [folders[sample.split] / sample.file_name for sample in self.samples()]

    def draw(self, folder: Path) -> None:
        """Write what is missing of `train/`, `test/`, `train.csv`, `test.csv`, `classes.csv`.

        Does nothing when all is there. Interrupted, it goes on where it stopped; while another
        process draws the same set, it waits.

        Args:
            folder: Where the set lies; made when missing.

        Raises:
            InputError: When the folder cannot be written.
            FaultError: When the disk is full or a process is killed.
        """
        try:
            for split in SPLITS:
                (folder / split).mkdir(parents=True, exist_ok=True)
            with wait_for_folder(folder):
                self._draw_pending(folder)
        except OSError as error:
            reason = f"{folder}: {error.strerror or error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FaultError(
                    f"the document images do not fit in {reason}: free some room and run the "
                    "command again, it goes on where it stopped; or set cache_dir"
                ) from None
            raise InputError(
                f"the document images cannot be drawn into {reason}: set cache_dir to a folder "
                "that can be written"
            ) from None

    def _draw_pending(self, folder: Path) -> None:
        files = self.files(folder)
        ledger = RowLedger(folder / "drawn.json", len(files))
        if ledger.complete and not _all_there(folder, files):
            ledger.clear()
        if ledger.complete:
            return
        for leftover in folder.glob("*/.*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        for name, text in self.tables().items():
            write_text(folder / name, text)
        if not sys.stderr.isatty():
            _logger.info("drawing %d document images into %s", len(ledger.pending()), folder)
        work_through(_Draw(self), files, ledger, title="drawing documents", save=ledger.save)

    def tables(self) -> dict[str, str]:
        """Return the text of each CSV file under its name."""
        train = ["id,target"]
        test = [",".join(("id", "target", *Disturbance._fields))]
        for sample in self.samples():
            row = [sample.file_name, str(sample.target)]
            if sample.split == SPLITS.index("train"):
                train.append(",".join(row))
            else:
                test.append(",".join((*row, *map(str, sample.disturbance))))
        classes = ["target,class_name", *(f"{row},{name}" for row, name in enumerate(CLASS_NAMES))]
        tables = {"train.csv": train, "test.csv": test, "classes.csv": classes}
        return {name: "\n".join(lines) + "\n" for name, lines in tables.items()}


@dataclass(frozen=True)
class _Draw:
    """Draws rows of a set into their files; light enough to be sent to any process."""

    documents: DocumentSet

    def __call__(self, rows: npt.NDArray[np.int64], paths: Sequence[Path]) -> dict[int, str]:
        samples = self.documents.samples()
        for row, path in zip(rows, paths, strict=True):
            image = draw_sample(samples[row], self.documents.size_px)
            with atomic_write(path) as stream:
                image.save(stream, "JPEG", quality=_JPEG_QUALITY)
        return {}


@functools.lru_cache(maxsize=2)
def _samples(documents: DocumentSet) -> tuple[Sample, ...]:
    train = list_samples(documents.seed, "train", documents.train_count)
    return (*train, *list_samples(documents.seed, "test", documents.test_count))


def _all_there(folder: Path, files: Sequence[Path]) -> bool:
    found = {path for split in SPLITS for path in (folder / split).iterdir()}
    return found.issuperset(files) and all(
        (folder / name).exists() for name in ("train.csv", "test.csv", "classes.csv")
    )
