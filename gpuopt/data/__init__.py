"""Data sets as Lightning data modules: decoded once, moved as uint8, augmented on the device."""

from typing import TYPE_CHECKING

from gpuopt.data.augmentation import AUGMENTATION_UNIFORMS, Augmentation
from gpuopt.data.batch import Batch
from gpuopt.data.cache import open_images
from gpuopt.data.dataset import ImageDataset, Split
from gpuopt.data.decode import UnreadableImageError, decode_image
from gpuopt.data.image_store import (
    ArrayImages,
    FileImages,
    ImageStore,
    MappedImages,
    RejectedImage,
)
from gpuopt.data.loader import WindowLoader, loader_fault
from gpuopt.data.mixing import mix_batch
from gpuopt.data.prediction import PredictionImages, prediction_images
from gpuopt.data.real_images import real_images
from gpuopt.data.splits import DataSets, ImageSet
from gpuopt.data.window_sampler import (
    Chunk,
    EvaluationSampler,
    GlobalWindowSampler,
    micro_batches_per_window,
)
from gpuopt.lazy import on_demand

if TYPE_CHECKING:
    from gpuopt.data.datamodule import ImageDataModule
    from gpuopt.data.digits import Digits
    from gpuopt.data.documents import Documents
    from gpuopt.data.image_csv import ImageCsv
    from gpuopt.data.image_folder import ImageFolder

__all__ = [
    "AUGMENTATION_UNIFORMS",
    "ArrayImages",
    "Augmentation",
    "Batch",
    "Chunk",
    "DataSets",
    "Digits",
    "Documents",
    "EvaluationSampler",
    "FileImages",
    "GlobalWindowSampler",
    "ImageCsv",
    "ImageDataModule",
    "ImageDataset",
    "ImageFolder",
    "ImageSet",
    "ImageStore",
    "MappedImages",
    "PredictionImages",
    "RejectedImage",
    "Split",
    "UnreadableImageError",
    "WindowLoader",
    "decode_image",
    "loader_fault",
    "micro_batches_per_window",
    "mix_batch",
    "open_images",
    "prediction_images",
    "real_images",
]

# They need Lightning, and predicting does not.
__getattr__ = on_demand(
    __name__,
    {
        "datamodule": ("ImageDataModule",),
        "digits": ("Digits",),
        "documents": ("Documents",),
        "image_csv": ("ImageCsv",),
        "image_folder": ("ImageFolder",),
    },
)
