"""The flags of the guide's own check, each of which names a report of `gpuopt check`."""

from collections.abc import Iterable

__all__ = ["CHECK_COMMAND", "REPORT_OF_FLAG", "report_setting"]

CHECK_COMMAND = "check"
REPORT_OF_FLAG = {
    "analyze_team_performance": "recommend",
    "benchmark": "benchmark",
    "check_drivers": "drivers",
    "compatibility_matrix": "matrix",
    "detailed": "detailed",
    "recommend": "recommend",
    "recommend_settings": "recommend",
    "recommend_tta_type": "tta",
}


def report_setting(flags: Iterable[str]) -> str:
    """Word the one setting that several flags are here, such as `[detailed,drivers]`.

    Args:
        flags: Keys of `REPORT_OF_FLAG`, in the order typed.
    """
    reports = list(dict.fromkeys(REPORT_OF_FLAG[flag] for flag in flags))
    return reports[0] if len(reports) == 1 else f"[{','.join(reports)}]"
