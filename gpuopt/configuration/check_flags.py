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


def report_setting(command: str, names: Iterable[str]) -> dict[str, str]:
    """Return the one setting that several flags of the guide are, such as `[detailed,drivers]`.

    Args:
        command: Which was typed; only `check` has reports.
        names: Of the flags, in the order typed, others among them.

    Returns:
        The value of the key `report`; nothing where no flag names one.
    """
    reports = list(dict.fromkeys(REPORT_OF_FLAG[name] for name in names if name in REPORT_OF_FLAG))
    if command != CHECK_COMMAND or not reports:
        return {}
    return {"report": reports[0] if len(reports) == 1 else f"[{','.join(reports)}]"}
