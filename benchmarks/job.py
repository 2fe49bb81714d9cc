"""The files and the words of the seed guide's job: JPEGs, views and folds to one CSV."""

import argparse
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.fold_run import RANDOM_WEIGHTS, FoldRun, make_fold_run
from gpuopt.data.drawing import DocumentSet
from gpuopt.override_words import quoted
from gpuopt.storage import default_cache_dir

__all__ = ["JPEG_COUNT", "Job", "used_engines"]

JPEG_COUNT = 3140
"""Files of the seed's job."""

_DRAWN_SIZE = 900  # of the long side; the short ones of documents are about 600
_TRAIN_COUNT = 850  # an engine is proved on 500
_QUICK = DocumentSet(seed=0, train_count=500, test_count=16, size_px=64)


@dataclass(frozen=True)
class Job:
    """What every command of the program works on.

    Attributes:
        folder: Where images, run and caches lie; kept, so that they are made once.
        run: The models.
        device: `cuda` or `cpu`.
    """

    folder: Path
    run: FoldRun
    device: str

    @classmethod
    def prepare(cls, arguments: argparse.Namespace) -> "Job":
        """Draw the files and make the run, where they are not there yet.

        Args:
            arguments: `model`, `image_size`, `folds`, `device` and `quick`.
        """
        folder = default_cache_dir() / "benchmarks" / "seed_job"
        documents = _QUICK if arguments.quick else DocumentSet(
            0, _TRAIN_COUNT, JPEG_COUNT, _DRAWN_SIZE
        )  # fmt: skip
        run = FoldRun(
            arguments.model, arguments.image_size, arguments.folds, documents, folder / "cache"
        )
        job = cls(folder, run, arguments.device)
        make_fold_run(job.run_folder, run, torch.device(arguments.device))
        return job

    @property
    def run_folder(self) -> Path:
        """The run of folds."""
        name = f"{self.run.model}_{self.run.image_size}px_{self.run.folds}_folds"
        return self.folder / f"{name}_{self.run.documents.test_count}"

    def files(self, images: int) -> str:
        """Word the models and the files for a table."""
        size_px = self.run.documents.size_px
        return (
            f"{self.run.model} {self.run.image_size} px, {RANDOM_WEIGHTS}, {self.run.folds} "
            f"folds, {images} JPEGs of about {2 * size_px // 3} x {size_px}"
        )

    def words(self, images: int, *more: str) -> list[str]:
        """Name run, images and caches for `gpuopt predict`.

        Args:
            images: How many files.
            more: Further settings.
        """
        return [
            f"run={quoted(str(self.run_folder))}",
            "data=image_folder",
            f"data.root={quoted(str(self.images(images)))}",
            f"cache_dir={quoted(str(self.run.cache_dir))}",
            *(["gpu=cpu"] if self.device == "cpu" else []),
            *more,
        ]

    def images(self, count: int) -> Path:
        """Return a folder with the first files, which are linked into it.

        Raises:
            ValueError: When there are not as many.
        """
        files = sorted(self.run.test_folder.glob("*.jpg"))
        if not 1 <= count <= len(files):
            raise ValueError(f"{count} images were asked for, and {len(files)} are there")
        folder = self.folder / f"images_{count}_of_{len(files)}"
        if not folder.exists():
            new = folder.with_name(f".{folder.name}")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            for file in files[:count]:
                os.link(file, new / file.name)
            new.rename(folder)
        return folder

    def new_output(self, name: str) -> Path:
        """Return a path for a CSV, with nothing beside it."""
        folder = self.folder / "outputs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder / "predictions.csv"

    def forget_images(self) -> None:
        """Remove decoded images: each timed command reads the JPEG files."""
        shutil.rmtree(self.run.cache_dir / "images", ignore_errors=True)

    def forget_engines(self) -> None:
        """Remove engines and compiled code: the next start is a first one."""
        shutil.rmtree(self.run.cache_dir / "engines", ignore_errors=True)
        shutil.rmtree(self._compiled, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that keep what PyTorch compiles in the job's folder."""
        return {
            "TORCHINDUCTOR_CACHE_DIR": str(self._compiled / "inductor"),
            "TRITON_CACHE_DIR": str(self._compiled / "triton"),
        }

    @property
    def _compiled(self) -> Path:
        return self.folder / "compiled"


def used_engines(lines: Sequence[str]) -> list[str]:
    """Read which engines a command said that it took, in order; none is the model itself."""
    taken = (
        re.match(r"engine=(\w+) \((?:given|measured|table|predicted): ", line) for line in lines
    )
    return list(dict.fromkeys(found.group(1) for found in taken if found))
