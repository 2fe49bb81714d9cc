"""Floor 6: what `gpuopt check` reports, one file per report. Importing this imports no torch.

A report is a module of this package, named in `REPORTS`, with a function `report`.
"""

from gpuopt.checks.request import CheckRequest, Report, make_report

__all__ = ["CheckRequest", "Report", "make_report"]
