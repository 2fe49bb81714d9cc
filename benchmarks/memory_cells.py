"""Real training steps of one network at one micro-batch, and the memory they took."""

import contextlib
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import lightning.pytorch as L
import torch

from benchmarks.step_setting import CLIP_NORM, MemoryImages, StepSetting, draw_bank
from gpuopt.data import DataSets
from gpuopt.hardware import float32_matmul_precision, lightning_precision
from gpuopt.memory import MemorySetup
from gpuopt.memory.device_errors import is_out_of_memory
from gpuopt.model import AdamW, Classifier

__all__ = [
    "CONTEXT_MIB",
    "MODELS",
    "Cell",
    "Peak",
    "build",
    "capped",
    "fits",
    "images_of",
    "largest_that_fits",
    "quiet",
    "release",
    "setup_of",
    "train_cell",
    "trainer_of",
]

MODELS = (
    ("convnext_base.fb_in22k_ft_in1k_384", 384),
    ("efficientnet_b3", 300),
    ("resnet50", 224),
    ("vit_base_patch16_224", 224),
    ("efficientnet_b0", 224),
)
"""The networks of the memory programs with the image size of each, in pixels."""

CONTEXT_MIB = 763
"""What an emulated card of N MiB is taken to lose to its CUDA context, as the predictor does."""

_CLASSES = 17
_MIB = 2**20


@dataclass(frozen=True)
class Cell:
    """A network to be trained.

    Attributes:
        model: timm model name.
        image_size: Side in pixels.
        checkpointing: Level of recomputation.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        device: `cpu` or `cuda`.
        offload: Whether the optimizer's state lies in host memory.
    """

    model: str
    image_size: int
    checkpointing: str = "none"
    precision: str = "bf16"
    device: str = "cuda"
    offload: bool = False

    def __str__(self) -> str:
        """Word it for a table."""
        name = self.model.partition(".")[0]
        level = "" if self.checkpointing == "none" else f", checkpointing {self.checkpointing}"
        offload = ", optimizer offloaded" if self.offload else ""
        return f"{name} {self.image_size} px, {self.precision}{level}{offload}"


@dataclass(frozen=True)
class Peak:
    """What some steps took.

    Attributes:
        samples: Micro-batch size.
        allocated_bytes: Highest sum of live tensors.
        reserved_bytes: Highest sum of what torch's allocator had taken from the device.
    """

    samples: int
    allocated_bytes: int
    reserved_bytes: int


class _Images(MemoryImages):
    """As many training samples as the steps need, and one full batch to validate on."""

    def read_sets(self) -> DataSets:
        names = [f"class {row}" for row in range(self._classes)]
        micro = self.micro_batch_size
        return DataSets(names, self._part(self._samples), self._part(micro))


def setup_of(cell: Cell) -> MemorySetup:
    """Describe a cell to the predictor."""
    return MemorySetup(
        cell.model,
        cell.image_size,
        cell.precision,
        checkpointing=cell.checkpointing,
        num_classes=_CLASSES,
        accumulates=False,
        # With fp16, gradients that are clipped keep the optimizer from being one kernel.
        optimizer_is_fused=cell.precision != "fp16",
        optimizer_is_offloaded=cell.offload,
    )


def build(cell: Cell, total_steps: int) -> Classifier:
    """Build the network with random weights."""
    torch.manual_seed(0)
    return Classifier(
        cell.model,
        _CLASSES,
        checkpointing=cell.checkpointing,
        optimizer=AdamW(offload=cell.offload),
        total_steps=total_steps,
    )


def images_of(
    cell: Cell, samples: int, steps: int, accumulate_grad_batches: int = 1
) -> MemoryImages:
    """Make random images for some optimizer steps, and one micro-batch to validate on."""
    whole = samples * accumulate_grad_batches
    setting = StepSetting(cell.model, cell.image_size, samples, whole, cell.precision, cell.device)
    return _Images(draw_bank(cell.image_size), setting, steps)


def train_cell(
    cell: Cell,
    samples: int,
    steps: int = 3,
    *,
    model: Classifier | None = None,
    callbacks: Sequence[L.Callback] = (),
    accumulate_grad_batches: int = 1,
) -> Peak:
    """Train some steps, validate once, and read the peak.

    Args:
        cell: The network.
        samples: Micro-batch size.
        steps: Optimizer steps.
        model: The network, built already; a new one otherwise.
        callbacks: Of the Trainer.
        accumulate_grad_batches: Batches of an optimizer step.

    Raises:
        torch.OutOfMemoryError: When it does not fit; or another error that means the same.
    """
    model = model or build(cell, steps)
    data = images_of(cell, samples, steps, accumulate_grad_batches)
    torch.set_float32_matmul_precision(float32_matmul_precision(cell.precision))
    release()
    if cell.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with quiet():
        trainer = trainer_of(cell, callbacks, accumulate_grad_batches)
        trainer.fit(model, datamodule=data)
    if cell.device == "cpu":
        return Peak(samples, 0, 0)
    return Peak(samples, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())


def trainer_of(
    cell: Cell, callbacks: Sequence[L.Callback] = (), accumulate_grad_batches: int = 1
) -> L.Trainer:
    """Make a Trainer that trains an epoch, validates, and leaves nothing behind."""
    return L.Trainer(
        accelerator="gpu" if cell.device == "cuda" else "cpu",
        devices=1,
        precision=lightning_precision(cell.precision),
        max_epochs=1,
        accumulate_grad_batches=accumulate_grad_batches,
        gradient_clip_val=CLIP_NORM,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )


def fits(cell: Cell, samples: int, steps: int = 3) -> bool:
    """Train some steps in the memory that there is, and say whether they ran to their end."""
    failed = False
    try:
        train_cell(cell, samples, steps)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    release()  # outside: the error holds the tensors of the step
    return not failed


@contextlib.contextmanager
def capped(memory_mib: int | None) -> Iterator[None]:
    """Let the allocator have no more than a card of that size would, its context subtracted."""
    if memory_mib is None or not torch.cuda.is_available():
        yield
        return
    release()
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    ratio = (memory_mib - CONTEXT_MIB) * _MIB / total_bytes
    torch.cuda.memory.set_per_process_memory_fraction(ratio)
    try:
        yield
    finally:
        torch.cuda.memory.set_per_process_memory_fraction(1.0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning and torch say of every short fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=r".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=r".*lr_scheduler.step.*before.*optimizer.step.*")
        log = logging.getLogger("lightning.pytorch")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def release() -> None:
    """Give memory back, so that measurements do not meet."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def largest_that_fits(does_fit: Callable[[int], bool], start: int, most: int = 4096) -> int:
    """Find the largest batch that fits by trying, from a guess outwards.

    Args:
        does_fit: Whether a batch does; every smaller one is taken to fit then.
        start: A guess, at least 1.
        most: No more is tried.
    """
    low, high = 0, most + 1
    guess, step = start, max(1, start // 16)
    while high - low > 1:
        if does_fit(guess):
            low = guess
            guess = min(high - 1, low + step) if high > most else (low + high) // 2
        else:
            high = guess
            guess = max(low + 1, high - step) if low == 0 else (low + high) // 2
        step *= 2
        guess = min(max(guess, low + 1), high - 1)
    return low
