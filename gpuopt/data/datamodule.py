"""The base of every data set: splits, loaders, and what happens to a batch on the device."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning.pytorch as L
import numpy as np
import numpy.typing as npt

from gpuopt.data.augmentation import Augmentation
from gpuopt.data.batch import Batch
from gpuopt.data.cache import CacheMode, open_images
from gpuopt.data.dataset import ImageDataset, Split
from gpuopt.data.image_store import FileImages, RejectedImage
from gpuopt.data.limits import check_options
from gpuopt.data.loader import WindowLoader
from gpuopt.data.mixing import mix_batch
from gpuopt.data.resume import resume_batch
from gpuopt.data.splits import DataSets, Splits, open_splits
from gpuopt.data.splitting import balanced_weights
from gpuopt.data.window_sampler import (
    EvaluationSampler,
    GlobalWindowSampler,
    micro_batches_per_window,
)
from gpuopt.errors import InputError

__all__ = ["ImageDataModule"]


class ImageDataModule(L.LightningDataModule, ABC):
    """Images as batches of decoded uint8, mixed and augmented on the device.

    A data set derives from it and implements `read_sets`; its own constructor takes its own
    arguments and hands `**options` on, which then show in its signature. A sample's pixels in
    training depend on (seed, epoch, sample) only: neither micro-batch size, workers, ranks nor
    the point of a resume change what the optimizer sees.

    Args:
        image_size: Side of the square images in pixels.
        micro_batch_size: Samples per device and forward pass in training.
        global_batch_size: Samples per optimizer step over all devices.
        num_workers: Loader processes; 0 loads in the main process.
        prefetch_factor: Batches that each of them holds ready.
        pin_memory: Copy batches to page-locked memory where there is a CUDA device.
        seed: Seed of split, order, mixing and augmentation.
        evaluation_batch_size: Samples per device and batch in evaluation; None takes the
            micro-batch size.
        validation_ratio: Share of the training images to validate on, where the data has no
            validation images of its own.
        folds: Number of folds that the training images are dealt into, by class and whole groups;
            None validates on `validation_ratio` instead.
        fold: The fold to validate on, from 0; the others are trained on.
        class_weights: `none`, or `balanced` to let every class weigh the same in the loss.
        mixup_alpha: Parameter of mixup's Beta distribution; 0 switches it off.
        cutmix_alpha: Parameter of cutmix's Beta distribution; 0 switches it off.
        augmentation: What to do to training images on the device; None leaves them as they are.
        cache: Keep decoded images on disk: `off`, `on`, or `auto` (up to `cache_limit_gib`).
        cache_dir: Folder of caches; None means the user's cache folder.
        cache_limit_gib: Size up to which `auto` keeps decoded images, in GiB.
        max_rejected_ratio: Share of unreadable images up to which they are left out.
        worker_timeout_s: Seconds after which a silent loader process is taken for dead.
        quickstart_image_size: Image size that `mode=quickstart` uses; not read here.

    Raises:
        InputError: For a value out of its range.
    """

    __signature__: ClassVar[inspect.Signature]  # what `inspect.signature` reads of a class

    def __init__(
        self,
        *,
        image_size: int,
        micro_batch_size: int,
        global_batch_size: int,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        seed: int = 0,
        evaluation_batch_size: int | None = None,
        validation_ratio: float = 0.2,
        folds: int | None = None,
        fold: int | None = None,
        class_weights: Literal["none", "balanced"] = "none",
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        augmentation: Augmentation | None = None,
        cache: CacheMode = "auto",
        cache_dir: str | Path | None = None,
        cache_limit_gib: float = 4.0,
        max_rejected_ratio: float = 0.01,
        worker_timeout_s: float = 30.0,
        quickstart_image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.micro_batch_size = micro_batch_size
        self.global_batch_size = global_batch_size
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.pin_memory = pin_memory
        self.seed = seed
        self.evaluation_batch_size = evaluation_batch_size
        self.validation_ratio = validation_ratio
        self.folds = folds
        self.fold = fold
        self.class_weights = class_weights
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.augmentation = augmentation
        self.cache = cache
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else None
        self.cache_limit_gib = cache_limit_gib
        self.max_rejected_ratio = max_rejected_ratio
        self.worker_timeout_s = worker_timeout_s
        self.quickstart_image_size = quickstart_image_size
        check_options(self)
        self._restored: dict[str, Any] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the common arguments in the signature of a class that takes `**options`.

        So a misspelt key is found by binding a configuration to the class, without calling it.
        """
        super().__init_subclass__(**kwargs)
        own = [
            parameter
            for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        names = {parameter.name for parameter in own}
        common = list(inspect.signature(ImageDataModule.__init__).parameters.values())[1:]
        cls.__signature__ = inspect.Signature(
            own + [parameter for parameter in common if parameter.name not in names]
        )

    @abstractmethod
    def read_sets(self) -> DataSets:
        """List the images; the only thing that a data set has to provide.

        Called once per process, on the first process of a machine before the others. It may
        create files in `self.cache_dir`, and must find them the second time.

        Raises:
            InputError: When the data is missing or makes no sense.
        """

    def prepare_data(self) -> None:
        """Read, draw or decode what is missing; Lightning calls it on one process per machine."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Open all splits; any stage does the whole, a second call does nothing."""
        _ = self._splits

    @property
    def class_names(self) -> list[str]:
        """Name of each class, in the order of the logits."""
        return list(self._splits.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self._splits.class_names)

    @property
    def train_size(self) -> int:
        """Number of training samples."""
        return len(self._splits.train)

    @property
    def validation_size(self) -> int:
        """Number of validation samples."""
        return len(self._splits.validation)

    @property
    def test_size(self) -> int:
        """Number of test samples."""
        return len(self._splits.test)

    @property
    def has_test_set(self) -> bool:
        """Whether the data has test images; if not, the validation samples are tested on."""
        return self._splits.has_test_set

    @property
    def has_test_targets(self) -> bool:
        """Whether the classes of all test samples are known."""
        return bool((self._splits.test.targets >= 0).all())

    @property
    def test_ids(self) -> list[str]:
        """Name of each test sample: `Batch.ids` of the test loader are places in this list."""
        return list(self._splits.test.ids)

    @property
    def validation_ids(self) -> list[str]:
        """Name of each validation sample."""
        return list(self._splits.validation.ids)

    @property
    def validation_targets(self) -> npt.NDArray[np.int64]:
        """Class of each validation sample, int64 [n]."""
        return self._splits.validation.targets

    @property
    def validation_groups(self) -> list[str] | None:
        """Group of each validation sample; None where the data has no groups."""
        groups = self._splits.validation.groups
        return None if groups is None else list(groups)

    @property
    def train_groups(self) -> list[str] | None:
        """Group of each training sample; None where the data has no groups."""
        groups = self._splits.train.groups
        return None if groups is None else list(groups)

    @property
    def train_ids(self) -> list[str]:
        """Name of each training sample."""
        return list(self._splits.train.ids)

    @property
    def is_decoded(self) -> bool:
        """Whether training images lie decoded in memory or in a memory map."""
        return not isinstance(self._splits.train.images, FileImages)

    @property
    def rejected(self) -> list[RejectedImage]:
        """Files that were left out because they cannot be read."""
        return list(self._splits.rejected)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the ids and targets of all splits."""
        return self._splits.fingerprint()

    def accumulate_grad_batches(self, world_size: int = 1) -> int:
        """Count the micro-batches per optimizer step, as a Trainer needs to be told."""
        return micro_batches_per_window(self.global_batch_size, self.micro_batch_size, world_size)

    def train_dataloader(self) -> WindowLoader:
        """Load the training samples, from where the Trainer's checkpoint left off.

        Raises:
            InputError: When the Trainer accumulates another number of batches than a global
                window has, or its checkpoint belongs to other data.
        """
        split, (rank, world_size) = self._splits.train, self._place()
        weighs = self.class_weights == "balanced"
        sampler = GlobalWindowSampler(
            balanced_weights(split.targets) if weighs else np.ones(len(split)),
            self.global_batch_size,
            self.micro_batch_size,
            self.seed,
            rank,
            world_size,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            image_size=self.image_size,
        )
        if self.trainer is not None:
            sampler.start_at(self._start(self.trainer, sampler))
        return self._loader(split, sampler)

    def val_dataloader(self) -> WindowLoader:
        """Load the validation samples in order."""
        return self._evaluation_loader(self._splits.validation)

    def test_dataloader(self) -> WindowLoader:
        """Load the test samples in order."""
        return self._evaluation_loader(self._splits.test)

    def predict_dataloader(self) -> WindowLoader:
        """Load the test samples in order."""
        return self._evaluation_loader(self._splits.test)

    def sample_batch(self, samples: int) -> Batch:
        """Read a training batch of at most that many samples, apart from every epoch."""
        split = self._splits.train
        sampler = GlobalWindowSampler(
            np.ones(len(split)),
            samples,
            samples,
            self.seed,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            image_size=self.image_size,
        )
        return ImageDataset(split, self.seed)[next(iter(sampler))]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mix and augment a training batch on its device; leave any other batch alone."""
        if self.trainer is None or not self.trainer.training or not isinstance(batch, Batch):
            return batch
        return self.augment(batch)

    def augment(self, batch: Batch) -> Batch:
        """Mix and augment a batch as training does.

        Returns:
            The batch with float32 images in 0..255 and without partner images.
        """
        batch = mix_batch(batch)
        if self.augmentation is None:
            return batch._replace(images=batch.images.float())
        return batch._replace(images=self.augmentation(batch.images, batch.uniforms))

    def state_dict(self) -> dict[str, Any]:
        """Save by what the position in the epoch is counted, and of which data."""
        return {
            "fingerprint": self.fingerprint,
            "global_batch_size": self.global_batch_size,
            "micro_batches_per_window": self.accumulate_grad_batches(self._place()[1]),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the saved state until the training loader is made."""
        self._restored = state_dict

    @cached_property
    def _splits(self) -> Splits:
        return open_splits(
            self.read_sets(),
            self._open_files,
            validation_ratio=self.validation_ratio,
            max_rejected_ratio=self.max_rejected_ratio,
            seed=self.seed,
            folds=self.folds,
            fold=self.fold,
        )

    def _open_files(self, paths: Sequence[Path]) -> Any:
        return open_images(
            paths,
            self.image_size,
            cache=self.cache,
            cache_dir=self.cache_dir,
            cache_limit_gib=self.cache_limit_gib,
        )

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _start(self, trainer: L.Trainer, sampler: GlobalWindowSampler) -> int:
        needed = sampler.accumulate_grad_batches
        if trainer.accumulate_grad_batches != needed:
            raise InputError(
                f"a global batch of {self.global_batch_size} in micro-batches of "
                f"{self.micro_batch_size} on {trainer.world_size} device(s) needs "
                f"accumulate_grad_batches={needed}, not {trainer.accumulate_grad_batches}"
            )
        saved, self._restored = self._restored, {}
        for key, now in (
            ("fingerprint", self.fingerprint),
            ("global_batch_size", self.global_batch_size),
        ):
            if saved.get(key, now) != now:
                raise InputError(
                    f"the checkpoint was made with another {_WORDS[key]}: "
                    "start a new run, or restore what it was made with"
                )
        return resume_batch(trainer, saved.get("micro_batches_per_window"), needed, len(sampler))

    def _evaluation_loader(self, split: Split) -> WindowLoader:
        batch_size = self.evaluation_batch_size or self.micro_batch_size
        return self._loader(split, EvaluationSampler(len(split), batch_size, *self._place()))

    def _loader(
        self, split: Split, sampler: GlobalWindowSampler | EvaluationSampler
    ) -> WindowLoader:
        return WindowLoader(
            ImageDataset(split, self.seed),
            sampler,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor,
            pin_memory=self.pin_memory,
            timeout_s=self.worker_timeout_s,
        )


_WORDS = {"fingerprint": "set of images or classes", "global_batch_size": "global_batch_size"}
