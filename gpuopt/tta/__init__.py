"""Test-time augmentation: fixed views of an image, merged as probabilities in constant memory.

Importing this package imports no torch, so that a configuration is checked in milliseconds; the
names that compute load on first use.
"""

from typing import TYPE_CHECKING

from gpuopt.lazy import on_demand
from gpuopt.tta.policy import TestTimeAugmentation
from gpuopt.tta.views import OPERATIONS, View, parse_views

if TYPE_CHECKING:
    from gpuopt.tta.apply import apply_view
    from gpuopt.tta.prediction_file import PredictionBlock, PredictionFile
    from gpuopt.tta.predictions import Predictions, predict_loader
    from gpuopt.tta.predictor import TtaPredictor
    from gpuopt.tta.streaming import LastPass, stream_pass
    from gpuopt.tta.view_scores import ViewScores, score_views

__all__ = [
    "OPERATIONS",
    "LastPass",
    "PredictionBlock",
    "PredictionFile",
    "Predictions",
    "TestTimeAugmentation",
    "TtaPredictor",
    "View",
    "ViewScores",
    "apply_view",
    "parse_views",
    "predict_loader",
    "score_views",
    "stream_pass",
]

__getattr__ = on_demand(
    __name__,
    {
        "apply": ("apply_view",),
        "prediction_file": ("PredictionBlock", "PredictionFile"),
        "predictions": ("Predictions", "predict_loader"),
        "predictor": ("TtaPredictor",),
        "streaming": ("LastPass", "stream_pass"),
        "view_scores": ("ViewScores", "score_views"),
    },
)
