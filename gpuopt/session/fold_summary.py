"""Sum up the folds of a run: its files and its table on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gpuopt.errors import FaultError
from gpuopt.measure import Interval, macro_f1
from gpuopt.report import FoldRow, folds_table, write_predictions_csv
from gpuopt.session.contest import SUBMISSION, contest_of_settings, write_submission
from gpuopt.session.fold_results import (
    FoldResult,
    TestEnsemble,
    assemble_fold_results,
    read_test_ensemble,
)
from gpuopt.session.out_of_fold import pool, write_pooled

__all__ = ["summarise_folds"]


def summarise_folds(
    folder: Path,
    count: int,
    folds: Sequence[FoldResult],
    data: Mapping[str, Any],
    data_name: str,
    console: Console,
) -> dict[str, Any]:
    """Write `out_of_fold.csv` and the mean of the folds' test predictions; print the scores.

    Args:
        folder: The folder of the run.
        count: Number of folds of the run.
        folds: Those that are finished, at least one.
        data: The settings of the data set.
        data_name: Its name, for people.
        console: Where the table is printed.

    Returns:
        What `results.json` holds.

    Raises:
        FaultError: When the folds do not belong together.
    """
    try:
        pooled = pool([found.out_of_fold for found in folds])
        ensemble = read_test_ensemble(folds)
    except (ValueError, IndexError) as error:
        raise FaultError(
            f"the folds in {folder} do not belong together ({error}): start a new run"
        ) from error
    write_pooled(folder, pooled)
    if ensemble is not None:
        _write_ensemble(folder, ensemble, pooled.class_names, data)
    results = assemble_fold_results(count, folds, pooled, ensemble)
    _print(console, results, folds, ensemble, data_name)
    return results


def _write_ensemble(
    folder: Path, ensemble: TestEnsemble, class_names: Sequence[str], data: Mapping[str, Any]
) -> None:
    write_predictions_csv(
        folder / "predictions.csv",
        ensemble.ids,
        ensemble.probabilities,
        class_names,
        ensemble.targets.tolist(),
    )
    contest = contest_of_settings(data, class_names)
    if contest is not None and (ensemble.targets < 0).all():
        classes = ensemble.probabilities.argmax(axis=1)
        write_submission(folder / SUBMISSION, ensemble.ids, classes, contest)


def _print(
    console: Console,
    results: Mapping[str, Any],
    folds: Sequence[FoldResult],
    ensemble: TestEnsemble | None,
    data_name: str,
) -> None:
    rows = [FoldRow(str(f.fold), len(f.out_of_fold.ids), f.macro_f1) for f in folds]
    pooled = Interval(**results["metrics"]["macro_f1"])
    rows.append(FoldRow("pooled", results["data"]["out_of_fold_images"], pooled))
    test = ensemble.score(macro_f1) if ensemble else None
    if ensemble is not None and test is not None:
        rows.append(FoldRow("test, mean of folds", int((ensemble.targets >= 0).sum()), test))
    spread = results["folds"]
    caption = f"{results['metrics']['interval']} intervals; mean of the folds {spread['mean']:.3f}"
    if spread["std"] is not None:
        caption += f", standard deviation {spread['std']:.3f}"
    if spread["missing"]:
        caption += f"; not trained yet: fold {', '.join(map(str, spread['missing']))}"
    title = f"Out of fold on {data_name}"
    console.print(folds_table(rows, title=title, caption=caption))
