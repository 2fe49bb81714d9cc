"""The classifier: a timm backbone in a LightningModule, its optimizer and schedule."""

from typing import TYPE_CHECKING

from gpuopt.lazy import on_demand
from gpuopt.model.backbone import Backbone, create_backbone
from gpuopt.model.network import ImageNetwork, normalise
from gpuopt.model.optimizer import AdamW, Sgd
from gpuopt.model.schedule import ConstantSchedule, CosineSchedule
from gpuopt.recomputation.apply import apply_checkpointing

if TYPE_CHECKING:
    from gpuopt.model.classifier import Classifier

__all__ = [
    "AdamW",
    "Backbone",
    "Classifier",
    "ConstantSchedule",
    "CosineSchedule",
    "ImageNetwork",
    "Sgd",
    "apply_checkpointing",
    "create_backbone",
    "normalise",
]

# It needs Lightning, and predicting does not.
__getattr__ = on_demand(
    __name__,
    {
        "classifier": ("Classifier",),
    },
)
