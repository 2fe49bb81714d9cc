"""Fit temperatures on the out-of-fold predictions of all folds of a run together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gpuopt.errors import FaultError, InputError
from gpuopt.session.calibrating import RunCalibration, Samples, calibrate, remove_calibration
from gpuopt.session.fold_results import FoldResult, read_test_ensemble
from gpuopt.session.out_of_fold import OUT_OF_FOLD_NO_TTA, pool, read_out_of_fold
from gpuopt.storage import sha256_of
from gpuopt.tta import TestTimeAugmentation

__all__ = ["calibrate_folds", "has_what_calibration_needs"]


def calibrate_folds(
    folder: Path, folds: Sequence[FoldResult], config: Mapping[str, Any], console: Console
) -> RunCalibration | None:
    """Pool what the folds' models say about images that they were not trained on, and calibrate.

    The mean of the folds is calibrated by the temperature of single folds, for which there are
    predictions of images that the model has not seen; for their mean there are none.

    Args:
        folder: The folder of the run.
        folds: Those that are finished, at least one.
        config: The configuration of the run.
        console: Where the choice is printed.

    Returns:
        The calibration, where the run asks for one.

    Raises:
        FaultError: When the folds do not belong together.
    """
    if not config.get("use_calibration"):
        remove_calibration(folder)
        return None
    policy = TestTimeAugmentation(**config["tta"])
    try:
        samples = _pooled(folds, policy)
        test = _test(folds, policy)
        weights = [sha256_of(fold.folder / "checkpoints" / "best.ckpt") for fold in folds]
        calibration = calibrate(
            folder, policy, samples, test, fitted_on="out-of-fold images", weights=weights
        )
    except (ValueError, IndexError, InputError) as error:
        raise FaultError(
            f"the folds in {folder} cannot be calibrated together ({error}): start a new run"
        ) from error
    console.print(str(calibration.choice), soft_wrap=True, markup=False)
    return calibration


def has_what_calibration_needs(folder: Path, config: Mapping[str, Any]) -> bool:
    """Tell whether a finished fold has left the predictions that calibrating the run takes.

    Args:
        folder: The fold's own.
        config: The configuration of the run.
    """
    if not config.get("use_calibration"):
        return True
    if TestTimeAugmentation(**config["tta"]).is_single_view:
        return True
    try:
        read_out_of_fold(folder / OUT_OF_FOLD_NO_TTA)
    except (OSError, ValueError):
        return False
    return True


def _pooled(folds: Sequence[FoldResult], policy: TestTimeAugmentation) -> Samples:
    merged = single = pool([fold.out_of_fold for fold in folds])
    if not policy.is_single_view:
        single = pool([read_out_of_fold(fold.folder / OUT_OF_FOLD_NO_TTA) for fold in folds])
    if merged.ids != single.ids or (merged.targets != single.targets).any():
        raise ValueError("they hold different images with TTA and without")
    return Samples(merged.targets, merged.probabilities, single.probabilities, merged.groups)


def _test(folds: Sequence[FoldResult], policy: TestTimeAugmentation) -> Samples | None:
    """Take the mean of the folds on the test images whose classes are known."""
    ensemble = read_test_ensemble(folds)
    if ensemble is None or not (known := ensemble.targets >= 0).any():
        return None
    merged = ensemble.probabilities[known]
    return Samples(ensemble.targets[known], merged, merged if policy.is_single_view else None)
