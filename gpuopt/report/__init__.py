"""Pictures, terminal tables and prediction files of a run."""

from typing import TYPE_CHECKING

from gpuopt.lazy import on_demand
from gpuopt.report.names import class_labels, plain_text, shortened
from gpuopt.report.predictions import (
    stream_predictions_csv,
    write_contest_csv,
    write_predictions_csv,
    write_rows_csv,
)
from gpuopt.report.tables import FoldRow, PlanRow, ResultRow, folds_table, plan_table, results_table

if TYPE_CHECKING:
    from gpuopt.report.confusion import confusion_figure
    from gpuopt.report.figures import png_bytes, save_png
    from gpuopt.report.frontier import FrontierPoint, frontier_figure
    from gpuopt.report.reliability import reliability_figure
    from gpuopt.report.samples import choose_samples, samples_figure
    from gpuopt.report.sweep import SweepRow, sweep_figure, sweep_table, write_sweep_csv

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

# They need Matplotlib, and tables and files do not.
__getattr__ = on_demand(
    __name__,
    {
        "confusion": ("confusion_figure",),
        "figures": ("png_bytes", "save_png"),
        "frontier": ("FrontierPoint", "frontier_figure"),
        "reliability": ("reliability_figure",),
        "samples": ("choose_samples", "samples_figure"),
        "sweep": ("SweepRow", "sweep_figure", "sweep_table", "write_sweep_csv"),
    },
)
