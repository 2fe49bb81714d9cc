"""Test-time augmentation: fixed views of an image, merged as probabilities in constant memory.

Importing this package imports no torch, so that a configuration is checked in milliseconds; the
names that compute load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

_NEEDS_TORCH = {
    "LastPass": "streaming",
    "PredictionBlock": "prediction_file",
    "PredictionFile": "prediction_file",
    "Predictions": "predictions",
    "TtaPredictor": "predictor",
    "ViewScores": "view_scores",
    "apply_view": "apply",
    "predict_loader": "predictions",
    "score_views": "view_scores",
    "stream_pass": "streaming",
}


def __getattr__(name: str) -> Any:
    """Load a name that needs torch when it is first asked for."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_NEEDS_TORCH[name]}")
    return getattr(module, name)
