"""The comparison table of a sweep, rewritten whenever a job changes its state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuopt.override_words import unquoted
from gpuopt.report.figures import save_png
from gpuopt.report.sweep import SweepRow, sweep_figure, write_sweep_csv
from gpuopt.session.sweep_folder import Job, SweepFolder

__all__ = ["sweep_rows", "write_sweep_files"]


def sweep_rows(sweep: SweepFolder) -> list[SweepRow]:
    """Gather one row per job from what the jobs left in their folders.

    Raises:
        InputError: When the folder holds no sweep.
    """
    varied = sweep.varied_keys()
    return [
        sweep_row(job, varied, sweep.settings(job.number), sweep.results(job.number))
        for job in sweep.jobs
    ]


def sweep_row(
    job: Job, varied: list[str], settings: Mapping[str, Any], results: Mapping[str, Any]
) -> SweepRow:
    """Gather the row of one job; what it did not measure stays None."""
    values = dict(word.partition("=")[::2] for word in job.overrides)
    plan, training = results.get("plan", {}), results.get("training", {})
    metrics = results.get("metrics", {})

    def batch(key: str) -> int | str | None:
        for source in (plan, settings, values):
            if str(source.get(key, "")).isdecimal():
                return int(source[key])
        return values.get(key)  # what was refused, as it was typed

    def score(key: str) -> float | None:
        value: float | None = metrics.get(key, {}).get("value")
        return value

    return SweepRow(
        number=job.number,
        varied={key: unquoted(values.get(key, "")) for key in varied},
        global_batch_size=batch("global_batch_size"),
        micro_batch_size=batch("micro_batch_size"),
        samples_per_second=training.get("samples_per_second"),
        peak_memory_gib=training.get("peak_memory_gib"),
        duration_s=job.duration_s,
        f1=score("macro_f1"),
        f1_tta=score("macro_f1_tta") if metrics.get("tta", "none") != "none" else None,
        state=job.state,
        reason=job.reason,
    )


def write_sweep_files(sweep: SweepFolder) -> list[SweepRow]:
    """Rewrite `sweep.csv` and `sweep.png`, each in one piece.

    Returns:
        The rows, for the terminal.

    Raises:
        OSError: When the disk is full; the old files are kept.
    """
    rows = sweep_rows(sweep)
    write_sweep_csv(sweep.path / "sweep.csv", rows)
    save_png(sweep_figure(rows, _title(sweep.path)), sweep.path / "sweep.png")
    return rows


def _title(folder: Path) -> str:
    return f"Sweep {folder.name}"
