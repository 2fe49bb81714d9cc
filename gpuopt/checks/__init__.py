"""Floor 6: what `gpuopt check` reports, one file per report. Importing this imports no torch.

A report is a module of this package, named as `report=` has it, with a function `report`.
"""

from gpuopt.checks.request import CheckRequest, KnownRun, Report, TrainingMode, make_report
from gpuopt.checks.subject import present_subjects

__all__ = ["CheckRequest", "KnownRun", "Report", "TrainingMode", "make_report", "present_subjects"]
