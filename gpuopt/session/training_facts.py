"""What a training tells about itself when it has ended."""

from pathlib import Path
from typing import Any

from gpuopt.callbacks import (
    AdaptiveBatchSize,
    BatchSizeFinder,
    CompileChooser,
    GlobalBatchSchedule,
    GpuStats,
    OomRecovery,
    ScalerSteps,
)
from gpuopt.model import Classifier
from gpuopt.session.fitting import Fitted
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["training_facts"]


def training_facts(fitted: Fitted, model: Classifier, best: Path | None) -> dict[str, Any]:
    """Gather what `results.json` says about the training itself.

    Args:
        fitted: The training that has ended.
        model: What was trained.
        best: The checkpoint whose weights were tested; None for those of the last epoch.
    """
    callbacks: list[Any] = list(callbacks_of(fitted.trainer))

    def summary_of(kind: type[Any]) -> dict[str, Any] | None:
        return next((c.summary() for c in callbacks if isinstance(c, kind)), None)

    best_epoch = fitted.checkpoint.best_epoch
    return {
        "epochs": fitted.trainer.current_epoch,
        "steps": fitted.trainer.global_step,
        "forecast_s": fitted.summary.forecast_s,
        "best_epoch": None if best_epoch is None else best_epoch + 1,  # counted as people do
        "best_validation_score": fitted.checkpoint.best_score,
        "checkpoint": best.name if best else None,
        "initial_weights": model.weights_source,
        "oom_recovery": summary_of(OomRecovery),
        "adaptive_batch_size": summary_of(AdaptiveBatchSize),
        "batch_size_finder": summary_of(BatchSizeFinder),
        "compile": summary_of(CompileChooser),
        "global_batch": summary_of(GlobalBatchSchedule),
        "gradient_scaler": summary_of(ScalerSteps),
        **(summary_of(GpuStats) or {}),
    }
