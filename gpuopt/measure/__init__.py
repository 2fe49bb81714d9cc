"""Figures and how sure they are: classification, calibration, bootstrap intervals, durations."""

from typing import TYPE_CHECKING

from gpuopt.lazy import on_demand
from gpuopt.measure.bootstrap import (
    bootstrap_interval,
    grouped_bootstrap_interval,
    interval_by_group,
    paired_bootstrap_difference,
)
from gpuopt.measure.classification import (
    ClassCounts,
    Metric,
    accuracy,
    class_counts,
    confusion_matrix,
    f1_per_class,
    macro_f1,
)
from gpuopt.measure.interval import Interval
from gpuopt.measure.temperature import (
    TemperatureFit,
    apply_temperature,
    fit_temperature,
    log_of_probabilities,
)
from gpuopt.measure.timing import (
    Instant,
    Mark,
    Segment,
    StepTimer,
    Stopwatch,
    TimedSteps,
    duration_text,
)

if TYPE_CHECKING:
    from gpuopt.measure.calibration import (
        CalibrationChange,
        CalibrationScores,
        ReliabilityBins,
        calibration_change,
        calibration_scores,
        reliability_bins,
    )

__all__ = [
    "CalibrationChange",
    "CalibrationScores",
    "ClassCounts",
    "Instant",
    "Interval",
    "Mark",
    "Metric",
    "ReliabilityBins",
    "Segment",
    "StepTimer",
    "Stopwatch",
    "TemperatureFit",
    "TimedSteps",
    "accuracy",
    "apply_temperature",
    "bootstrap_interval",
    "calibration_change",
    "calibration_scores",
    "class_counts",
    "confusion_matrix",
    "duration_text",
    "f1_per_class",
    "fit_temperature",
    "grouped_bootstrap_interval",
    "interval_by_group",
    "log_of_probabilities",
    "macro_f1",
    "paired_bootstrap_difference",
    "reliability_bins",
]

# It needs SciPy, and most others do not.
__getattr__ = on_demand(
    __name__,
    {
        "calibration": (
            "CalibrationChange",
            "CalibrationScores",
            "ReliabilityBins",
            "calibration_change",
            "calibration_scores",
            "reliability_bins",
        ),
    },
)
