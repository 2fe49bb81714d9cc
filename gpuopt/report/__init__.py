"""Pictures, terminal tables and prediction files of a run."""

from gpuopt.report.confusion import confusion_figure
from gpuopt.report.figures import png_bytes, save_png
from gpuopt.report.frontier import FrontierPoint, frontier_figure
from gpuopt.report.names import class_labels, plain_text, shortened
from gpuopt.report.predictions import (
    stream_predictions_csv,
    write_contest_csv,
    write_predictions_csv,
    write_rows_csv,
)
from gpuopt.report.reliability import reliability_figure
from gpuopt.report.samples import choose_samples, samples_figure
from gpuopt.report.sweep import SweepRow, sweep_figure, sweep_table, write_sweep_csv
from gpuopt.report.tables import FoldRow, PlanRow, ResultRow, folds_table, plan_table, results_table

__all__ = [
    "FoldRow",
    "FrontierPoint",
    "PlanRow",
    "ResultRow",
    "SweepRow",
    "choose_samples",
    "class_labels",
    "confusion_figure",
    "folds_table",
    "frontier_figure",
    "plain_text",
    "plan_table",
    "png_bytes",
    "reliability_figure",
    "results_table",
    "samples_figure",
    "save_png",
    "shortened",
    "stream_predictions_csv",
    "sweep_figure",
    "sweep_table",
    "write_contest_csv",
    "write_predictions_csv",
    "write_rows_csv",
    "write_sweep_csv",
]
