"""What a training step works on: the same model, images and settings for every contestant."""

import argparse
import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gpuopt.data import AUGMENTATION_UNIFORMS, Augmentation, DataSets, ImageDataModule, ImageSet
from gpuopt.model import AdamW, Classifier, CosineSchedule

__all__ = [
    "CLIP_NORM",
    "LABEL_SMOOTHING",
    "LEARNING_RATE",
    "WEIGHT_DECAY",
    "MemoryImages",
    "StepSetting",
    "affordable_workers",
    "draw_bank",
    "endless_batches",
    "make_classifier",
    "parse_setting",
    "synchronizer",
]

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
CLIP_NORM = 1.0
_WARMUP_SAMPLES = 750
_BANK_SIZE = 512
_BANK_BYTES = 2**28
_EPOCH_SAMPLES = 1256  # the default data set's training images
_LOGS_PER_EPOCH = 10  # as `gpuopt.session.fitting` chooses
_GPU_WORKERS = 4
_BATCHES_PER_WORKER = 3  # two prefetched, one in the making
_CONTESTANTS = 4


@dataclass(frozen=True)
class StepSetting:
    """One training step.

    Attributes:
        model: timm model name.
        image_size: Side in pixels.
        micro_batch_size: Samples per forward pass.
        global_batch_size: Samples per optimizer step, a multiple of the micro-batch.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        device: `cpu` or `cuda`.
        workers: Loader processes of each contestant.
        compile_backend: Backend of torch.compile in mode `default`; None does not compile.
        num_classes: Classes of the head.
    """

    model: str
    image_size: int
    micro_batch_size: int
    global_batch_size: int
    precision: str
    device: str
    workers: int = 0
    compile_backend: str | None = None
    num_classes: int = 17

    @property
    def accumulate(self) -> int:
        """Micro-batches per optimizer step."""
        return self.global_batch_size // self.micro_batch_size

    @property
    def log_every_n_steps(self) -> int:
        """Optimizer steps between two log entries, as gpuopt chooses for the default data set."""
        return max(1, -(-_EPOCH_SAMPLES // self.global_batch_size) // _LOGS_PER_EPOCH)

    def autocast(self) -> AbstractContextManager[object]:
        """Enter mixed precision as the precision asks for."""
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.precision not in kinds:
            return contextlib.nullcontext()
        return torch.autocast(self.device, kinds[self.precision])

    def __str__(self) -> str:
        """Word it for a table."""
        batch = f"{self.micro_batch_size} x {self.accumulate}"
        compiled = f", compiled ({self.compile_backend})" if self.compile_backend else ""
        place = f"{self.device}{compiled}"
        return f"{self.model} {self.image_size} px, batch {batch}, {self.precision}, {place}"


def parse_setting(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> StepSetting:
    """Build the setting from parsed arguments, `auto` resolved for this machine."""
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision, workers = arguments.precision, arguments.workers
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    if workers is None:
        workers = affordable_workers(device, arguments.image_size, arguments.micro_batch_size)
    if arguments.global_batch_size % arguments.micro_batch_size:
        parser.error("--global-batch-size must be a multiple of --micro-batch-size")
    return StepSetting(
        model=arguments.model,
        image_size=arguments.image_size,
        micro_batch_size=arguments.micro_batch_size,
        global_batch_size=arguments.global_batch_size,
        precision=precision,
        device=device,
        workers=workers,
        compile_backend=arguments.compile_backend,
    )


def affordable_workers(device: str, image_size: int, micro_batch_size: int) -> int:
    """Choose the loader processes of each contestant: 0 on a CPU, which they would share.

    Batches pass through shared memory, which is small in many containers; a worker that finds it
    full is killed.
    """
    if device == "cpu":
        return 0
    batch_bytes = 3 * image_size**2 * micro_batch_size
    try:
        free_bytes = shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0
    return min(_GPU_WORKERS, free_bytes // (batch_bytes * _BATCHES_PER_WORKER * _CONTESTANTS))


def draw_bank(image_size: int) -> npt.NDArray[np.uint8]:
    """Fill memory with random images, uint8 [count, 3, s, s], that samples are taken from."""
    count = max(1, min(_BANK_SIZE, _BANK_BYTES // (3 * image_size**2)))
    shape = (count, 3, image_size, image_size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class _RepeatedImages:
    """An `ImageStore` as long as one likes that holds few images."""

    def __init__(self, bank: npt.NDArray[np.uint8], count: int) -> None:
        self._bank = bank
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        images: npt.NDArray[np.uint8] = self._bank[rows % len(self._bank)]
        return images

    def fingerprint(self) -> str:
        return f"{self._bank.shape} repeated to {self._count}"


class MemoryImages(ImageDataModule):
    """Images in memory with gpuopt's own loader and default augmentation.

    Args:
        bank: uint8 [count, 3, s, s].
        setting: Of the step.
        steps: Optimizer steps that one epoch shall have.
    """

    def __init__(self, bank: npt.NDArray[np.uint8], setting: StepSetting, steps: int) -> None:
        self._bank = bank
        self._samples = steps * setting.global_batch_size
        self._classes = setting.num_classes
        super().__init__(
            image_size=setting.image_size,
            micro_batch_size=setting.micro_batch_size,
            global_batch_size=setting.global_batch_size,
            num_workers=setting.workers,
            pin_memory=setting.device == "cuda",
            augmentation=Augmentation(),
        )

    def read_sets(self) -> DataSets:
        """Return as many samples as an epoch needs, and a few to validate on."""
        names = [f"class {row}" for row in range(self._classes)]
        return DataSets(names, self._part(self._samples), self._part(self._classes))

    def _part(self, count: int) -> ImageSet:
        targets = np.arange(count, dtype=np.int64) % self._classes
        return ImageSet(list(map(str, range(count))), targets, _RepeatedImages(self._bank, count))


def make_classifier(setting: StepSetting, total_steps: int) -> Classifier:
    """Build gpuopt's model with random weights, not compiled yet."""
    return Classifier(
        setting.model,
        setting.num_classes,
        learning_rate=LEARNING_RATE,
        label_smoothing=LABEL_SMOOTHING,
        optimizer=AdamW(weight_decay=WEIGHT_DECAY),
        scheduler=CosineSchedule(warmup_samples=_WARMUP_SAMPLES),
        global_batch_size=setting.global_batch_size,
        total_steps=total_steps,
    )


class _Rows(Sampler[npt.NDArray[np.int64]]):
    """Random rows of a bank, one array per micro-batch, without end."""

    def __init__(self, count: int, micro_batch_size: int) -> None:
        self._count = count
        self._micro_batch_size = micro_batch_size

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        numbers = np.random.default_rng(0)
        while True:
            yield numbers.integers(0, self._count, self._micro_batch_size)


class _Batches(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Images, targets and the augmentation's numbers for an array of rows."""

    def __init__(self, bank: npt.NDArray[np.uint8], num_classes: int) -> None:
        self._bank = bank
        self._num_classes = num_classes

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(self._bank[rows])
        targets = torch.from_numpy(rows % self._num_classes)
        return images, targets, torch.rand(len(rows), AUGMENTATION_UNIFORMS)


def endless_batches(
    bank: npt.NDArray[np.uint8], setting: StepSetting
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield augmented micro-batches on the device from PyTorch's own loader.

    Args:
        bank: uint8 [count, 3, s, s].
        setting: Of the step.

    Yields:
        Images, float32 [n, 3, s, s] in 0..255, and targets, int64 [n].
    """
    augmentation, device = Augmentation(), torch.device(setting.device)
    loader = DataLoader(
        _Batches(bank, setting.num_classes),
        sampler=_Rows(len(bank), setting.micro_batch_size),
        batch_size=None,
        num_workers=setting.workers,
        pin_memory=setting.device == "cuda",
    )
    for images, targets, uniforms in loader:
        images = images.to(device, non_blocking=True)
        uniforms = uniforms.to(device, non_blocking=True)
        yield augmentation(images, uniforms), targets.to(device, non_blocking=True)


def synchronizer(device: str) -> Callable[[], object]:
    """Return what waits for a device, which is nothing on a CPU."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None
