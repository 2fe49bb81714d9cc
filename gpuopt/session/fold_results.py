"""What the folds of a run say together: scores per fold, pooled, and as an ensemble."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gpuopt.measure import (
    Interval,
    Metric,
    accuracy,
    bootstrap_interval,
    grouped_bootstrap_interval,
    macro_f1,
)
from gpuopt.session.out_of_fold import OUT_OF_FOLD, OutOfFold, read_out_of_fold, read_rows
from gpuopt.storage import write_text

__all__ = [
    "FOLD_RESULTS",
    "FoldResult",
    "TestEnsemble",
    "assemble_fold_results",
    "has_predictions",
    "read_fold",
    "read_test_ensemble",
    "training_of_folds",
    "write_fold_results",
]

FOLD_RESULTS = "fold_results.yaml"
_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A fold that is trained and tested.

    Attributes:
        fold: Its number, from 0.
        folder: Its run folder.
        results: Its `results.json`.
        out_of_fold: Predictions of the images that it was not trained on.
    """

    fold: int
    folder: Path
    results: Mapping[str, Any]
    out_of_fold: OutOfFold

    @cached_property
    def macro_f1(self) -> Interval:
        """Macro-F1 of the images that it was not trained on."""
        return _interval(self.out_of_fold, macro_f1)


@dataclass(frozen=True, eq=False)
class TestEnsemble:
    """The mean probabilities of the folds' models on the test images.

    Attributes:
        ids: Name of each image.
        targets: True classes, int64 [n]; -1 where unknown.
        probabilities: float64 [n, classes].
    """

    __test__ = False  # its name is no test of pytest's

    ids: Sequence[str]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def score(self, metric: Metric) -> Interval | None:
        """Measure the images whose class is known; None where there are none."""
        known = self.targets >= 0
        if not known.any():
            return None
        classes = self.probabilities.argmax(axis=1)
        return bootstrap_interval(self.targets[known], classes[known], metric)


def read_fold(folder: Path, fold: int) -> FoldResult | None:
    """Read a fold's results; None when it is not finished or they are damaged.

    Args:
        folder: Its run folder.
        fold: Its number.
    """
    try:
        results = json.loads((folder / "results.json").read_text("utf-8"))
        if results["state"] != "finished":
            return None
        found = read_out_of_fold(folder / OUT_OF_FOLD)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (found.folds == fold).all():
        return None
    return FoldResult(fold, folder, results, found)


def has_predictions(folder: Path) -> bool:
    """Tell whether a fold's predictions of the test images can be read."""
    try:
        read_rows(folder / "predictions.csv")
    except (OSError, ValueError):
        return False
    return True


def write_fold_results(folder: Path, count: int, folds: Sequence[FoldResult]) -> None:
    """Rewrite `fold_results.yaml`: weights and score of each fold, mean and deviation.

    Args:
        folder: The folder of the run; paths in the file are relative to it.
        count: Number of folds of the run.
        folds: Those that are finished.
    """
    content = {
        "schema": _SCHEMA,
        "n_folds": count,
        "metric": "macro-F1 of the images of the fold",
        "fold_results": [
            {
                "fold": found.fold,
                "model_path": str(_weights(found.folder).relative_to(folder)),
                "score": round(found.macro_f1.value, 6),
                "best_epoch": found.results["training"]["best_epoch"],
                "images": len(found.out_of_fold.ids),
            }
            for found in folds
        ],
        **_spread(folds),
    }
    write_text(folder / FOLD_RESULTS, yaml.safe_dump(content, sort_keys=False))


def read_test_ensemble(folds: Sequence[FoldResult]) -> TestEnsemble | None:
    """Average what the folds' models say about the test images.

    Returns:
        None where the data has no test images: each fold has then tested on images of its own.

    Raises:
        ValueError: When the folds tested on different images.
    """
    tables = [read_rows(found.folder / "predictions.csv") for found in folds]
    header, rows = tables[0]
    ids = [row[0] for row in rows]
    if set(ids) == set(folds[0].out_of_fold.ids):
        return None
    if any(names != header or [row[0] for row in lines] != ids for names, lines in tables):
        raise ValueError("the folds tested on different images")
    index = {name.removeprefix("p_"): place for place, name in enumerate(header[4:])}
    shares = np.zeros((len(ids), len(index)))
    for _, lines in tables:  # one after another, to hold one fold's numbers at a time
        shares += np.array([row[4:] for row in lines], np.float64)
    targets = np.array([index.get(row[1], -1) if row[1] else -1 for row in rows], np.int64)
    return TestEnsemble(ids, targets, shares / len(tables))


def assemble_fold_results(
    count: int,
    folds: Sequence[FoldResult],
    pooled: OutOfFold,
    ensemble: TestEnsemble | None,
) -> dict[str, Any]:
    """Gather the scores of a run of folds for its `results.json`.

    Args:
        count: Number of folds of the run.
        folds: Those that are finished, at least one.
        pooled: Their predictions together.
        ensemble: Their mean on the test images.
    """
    first = folds[0].results
    missing = sorted(set(range(count)) - {found.fold for found in folds})
    test_f1 = ensemble.score(macro_f1) if ensemble else None
    test_accuracy = ensemble.score(accuracy) if ensemble else None
    return {
        "schema": _SCHEMA,
        "state": "partial" if missing else "finished",
        "data": {
            "name": first["data"]["name"],
            "classes": first["data"]["classes"],
            "out_of_fold_images": len(pooled.ids),
            "groups": len(set(pooled.groups)) if pooled.groups else None,
            "test_images": len(ensemble.ids) if ensemble else 0,
        },
        "model": first["model"],
        "folds": {
            "count": count,
            "missing": missing,
            "macro_f1": {str(found.fold): found.macro_f1.as_dict() for found in folds},
            **_spread(folds),
        },
        "metrics": {
            "interval": "95 % bootstrap by group" if pooled.groups else "95 % bootstrap",
            "scored": "pooled out-of-fold predictions",
            "tta": first["metrics"]["tta"],
            "macro_f1": _interval(pooled, macro_f1).as_dict(),
            "accuracy": _interval(pooled, accuracy).as_dict(),
        },
        "test_ensemble": {
            "macro_f1": test_f1.as_dict() if test_f1 else None,
            "accuracy": test_accuracy.as_dict() if test_accuracy else None,
        },
        "training": training_of_folds([found.results["training"] for found in folds]),
        "durations_s": {
            name: round(sum(found.results["durations_s"][name] for found in folds), 3)
            for name in first["durations_s"]
        },
        "plan": first["plan"],
        "machine": first["machine"],
    }


def training_of_folds(trainings: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sum up what training the folds measured, by which sweeps compare and search.

    Args:
        trainings: The part `training` of each fold's results.

    Returns:
        Mean throughput and validation score, largest memory; what no fold measured is left out.
    """
    sums: dict[str, Callable[[list[float]], float]] = {
        "best_validation_score": fmean,
        "samples_per_second": fmean,
        "peak_memory_gib": max,
    }
    values = {
        key: [float(v) for training in trainings if (v := training.get(key)) is not None]
        for key in sums
    }
    return {key: sums[key](found) for key, found in values.items() if found}


def _interval(found: OutOfFold, metric: Metric) -> Interval:
    """Measure with an interval; images of one group are no independent evidence."""
    if found.groups is None:
        return bootstrap_interval(found.targets, found.classes, metric)
    return grouped_bootstrap_interval(found.targets, found.classes, found.groups, metric)


def _spread(folds: Sequence[FoldResult]) -> dict[str, float | None]:
    scores = [found.macro_f1.value for found in folds]
    return {
        "mean": round(fmean(scores), 6),
        "std": round(stdev(scores), 6) if len(scores) > 1 else None,
    }


def _weights(folder: Path) -> Path:
    """Name the file that predict takes: the best epoch."""
    return folder / "checkpoints" / "best.ckpt"
