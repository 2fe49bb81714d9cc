"""Figures and how sure they are: classification metrics, bootstrap intervals, durations."""

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
from gpuopt.measure.timing import (
    Instant,
    Mark,
    Segment,
    StepTimer,
    Stopwatch,
    TimedSteps,
    duration_text,
)

__all__ = [
    "ClassCounts",
    "Instant",
    "Interval",
    "Mark",
    "Metric",
    "Segment",
    "StepTimer",
    "Stopwatch",
    "TimedSteps",
    "accuracy",
    "bootstrap_interval",
    "class_counts",
    "confusion_matrix",
    "duration_text",
    "f1_per_class",
    "grouped_bootstrap_interval",
    "interval_by_group",
    "macro_f1",
    "paired_bootstrap_difference",
]
