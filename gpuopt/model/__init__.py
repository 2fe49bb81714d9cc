"""The classifier: a timm backbone in a LightningModule, its optimizer and schedule."""

from gpuopt.model.backbone import Backbone, create_backbone
from gpuopt.model.classifier import Classifier, normalise
from gpuopt.model.optimizer import AdamW, Sgd
from gpuopt.model.schedule import ConstantSchedule, CosineSchedule
from gpuopt.recomputation.apply import apply_checkpointing

__all__ = [
    "AdamW",
    "Backbone",
    "Classifier",
    "ConstantSchedule",
    "CosineSchedule",
    "Sgd",
    "apply_checkpointing",
    "create_backbone",
    "normalise",
]
