"""Predict images with a trained run: find the weights, the device and the images."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpuopt.choice import Choice
from gpuopt.data import PredictionImages, prediction_images
from gpuopt.data.loader import WindowLoader
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, recommended_workers, resolve_precision, select_gpu
from gpuopt.measure import Interval, bootstrap_interval, macro_f1
from gpuopt.memory import MemorySetup, choose_prediction_batch, predict_memory
from gpuopt.session.device import cuda_properties, faults_in_words, torch_settings
from gpuopt.session.weights import ModelDescription
from gpuopt.storage import Sidecar, place_below
from gpuopt.storage.checkpoint import newest_valid

if TYPE_CHECKING:
    from gpuopt.data import ImageDataModule

__all__ = [
    "ImageSource",
    "OpenedImages",
    "PredictionSetup",
    "find_checkpoint",
    "open_images",
    "score",
    "source_of",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSource:
    """Images without classes.

    Attributes:
        place: A folder, an image, or a CSV of file names.
        image_dir: Folder of a CSV's images; None takes the CSV's own.
        id_column: Column of a CSV that holds the names; None takes the first one.
        options: How to read them, see `PredictionImages`.
    """

    place: str
    image_dir: str | None = None
    id_column: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictionSetup:
    """What the machine decides about a prediction.

    Attributes:
        device: `cuda` or `cpu`.
        gpu: The card that is used, with its memory limit.
        precision: Arithmetic of the forward pass.
        batch_size: Images that are loaded at a time.
        num_workers: Loader processes.
        choices: Every automatic choice with its evidence.
    """

    device: str
    gpu: Gpu
    precision: str
    batch_size: int
    num_workers: int
    choices: tuple[Choice, ...]

    @classmethod
    def choose(
        cls,
        description: ModelDescription,
        *,
        preset: Gpu,
        catalogue: Mapping[str, Gpu],
        precision: str,
        batch_size: int | str,
        num_workers: int | str,
        cache_dir: str | None = None,
    ) -> "PredictionSetup":
        """Resolve what was left to gpuopt; the arguments are those of the configuration.

        Raises:
            InputError: When the device cannot run the model.
        """
        properties = cuda_properties(preset, 1)
        is_cuda = properties is not None
        gpu, gpu_choice = select_gpu(preset, properties, catalogue)
        arithmetic = resolve_precision(precision, gpu, is_cuda)
        if batch_size == "auto":
            name, size = description.model, description.image_size
            setup = MemorySetup(name, size, str(arithmetic.value), training=False)
            estimate = predict_memory(setup, cache_dir=cache_dir) if is_cuda else None
            batch = choose_prediction_batch(gpu, estimate)
        else:
            batch = Choice("batch_size", int(batch_size), "given", "asked for")
        asked: Any = num_workers if num_workers == "auto" else int(num_workers)
        workers = recommended_workers(asked, gpu, cached=True)
        return cls(
            "cuda" if is_cuda else "cpu",
            gpu,
            str(arithmetic.value),
            int(batch.value),
            int(workers.value),
            (gpu_choice, arithmetic, batch, workers),
        )

    @property
    def torch_device(self) -> torch.device:
        """The device with its number."""
        if self.device == "cuda":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device(self.device)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set up the device as training does, and word its faults; undone afterwards.

        Raises:
            FaultError: When memory runs out or a loader process dies.
            InputError: When the memory limit is above the device's memory.
        """
        settings = torch_settings(
            precision=self.precision,
            memory_limit_mib=self.gpu.memory_limit_mib,
            deterministic=False,
            accelerator=self.device,
        )
        smaller = max(1, self.batch_size // 2)
        in_words = faults_in_words(
            card=self.gpu.name,
            setting=f"batch_size={self.batch_size}",
            remedy=f"give batch_size={smaller}, which changes only the speed",
        )
        with settings, in_words:
            yield


def find_checkpoint(place: Path) -> Path:
    """Find the weights of a run: its best epoch, else its newest valid checkpoint.

    Args:
        place: A run folder, or a checkpoint file, which needs no sidecar.

    Raises:
        InputError: When there is none.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(f"run={place} is neither a run folder nor a checkpoint file")
    best = place / "checkpoints" / "best.ckpt"
    if Sidecar(best).match() is not None:
        return best
    found = newest_valid(place / "checkpoints")
    if found is not None and best.exists():
        _log.warning("%s is damaged: %s is used instead", best, found[0].name)
    if found is None:
        raise InputError(
            f"{place} has no intact checkpoint: resume its training first, or name a file with "
            "run=FILE"
        )
    return found[0]


def source_of(node: Mapping[str, Any]) -> ImageSource | None:
    """Read where a `data=` option keeps images without classes.

    Args:
        node: The settings of `data=image_folder` or `data=image_csv`.

    Returns:
        Where they are; None for a data set that brings its own test images.

    Raises:
        InputError: When the option names no images.
    """
    name = str(node["_target_"]).rpartition(".")[2]
    if name == "ImageFolder":
        if not node.get("root"):
            raise InputError("data=image_folder needs data.root=FOLDER, the images to predict")
        return ImageSource(str(node["root"]), options=_reading_options(node))
    if name == "ImageCsv":
        if not node.get("test_csv") and not node.get("test_dir"):
            raise InputError("data=image_csv needs data.test_csv=FILE and data.test_dir=FOLDER")
        table, folder = (
            str(place_below(node.get("root"), node[key])) if node.get(key) else None
            for key in ("test_csv", "test_dir")
        )
        if table is None:
            return ImageSource(str(folder), options=_reading_options(node))
        return ImageSource(table, folder, node.get("id_column"), _reading_options(node))
    return None


@dataclass(frozen=True)
class OpenedImages:
    """Images that are ready to be predicted on.

    Attributes:
        loader: Yields them in order; `Batch.ids` are places in `ids`.
        ids: Name of each.
        rejected: Files that were left out, with the reason.
    """

    loader: WindowLoader
    ids: Sequence[str]
    rejected: list[str]


def open_images(
    source: "ImageDataModule | ImageSource",
    description: ModelDescription,
    setup: PredictionSetup,
    cache_dir: str | None,
) -> OpenedImages:
    """Open a data set's test images, or images without classes.

    Args:
        source: A data module, or what `source_of` returns.
        description: What the model was trained on.
        setup: Batch and loader processes.
        cache_dir: Folder of decoded images; None means the user's cache folder.

    Raises:
        InputError: When images cannot be read, or classes do not match.
        FaultError: When the disk is full or a process that decodes dies.
    """
    if not isinstance(source, ImageSource):
        source.prepare_data()
        source.setup()
        if tuple(source.class_names) != description.class_names:
            raise InputError(
                f"the data's {source.num_classes} classes are not the checkpoint's "
                f"{len(description.class_names)}: {_first_difference(source, description)}"
            )
        rejected = [f"{r.path}: {r.reason}" for r in source.rejected]
        return OpenedImages(source.test_dataloader(), source.test_ids, rejected)
    images = PredictionImages(
        prediction_images(source.place, source.image_dir, source.id_column),
        description.image_size,
        setup.batch_size,
        # Folders of classes are labels; the names in a CSV are only names.
        class_names=description.class_names if Path(source.place).expanduser().is_dir() else (),
        num_workers=setup.num_workers,
        pin_memory=setup.device == "cuda",
        cache_dir=cache_dir,
        **source.options,
    )
    rejected = [f"{r.path}: {r.reason}" for r in images.rejected]
    return OpenedImages(images.loader(), images.ids, rejected)


def score(targets: NDArray[np.int64], classes: NDArray[np.int64]) -> Interval | None:
    """Return macro-F1 with its interval where the classes are known, else None.

    Args:
        targets: True classes [n], -1 where unknown.
        classes: Predicted classes [n].
    """
    known: NDArray[np.bool_] = targets >= 0
    if not known.any():
        return None
    return bootstrap_interval(targets[known], classes[known], macro_f1)


def _reading_options(node: Mapping[str, Any]) -> dict[str, Any]:
    names = ("cache", "cache_limit_gib", "max_rejected_ratio", "worker_timeout_s")
    return {name: node[name] for name in names if name in node}


def _first_difference(data: "ImageDataModule", description: ModelDescription) -> str:
    own, stored = data.class_names, description.class_names
    for index in range(max(len(own), len(stored))):
        left = own[index] if index < len(own) else "nothing"
        right = stored[index] if index < len(stored) else "nothing"
        if left != right:
            return f"class {index} is {left!r} and not {right!r}"
    return "they differ"
