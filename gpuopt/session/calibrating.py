"""Fit temperatures on images that the model was not trained on, and store them in its run."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gpuopt.choice import Choice
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.measure import (
    CalibrationChange,
    TemperatureFit,
    calibration_change,
    fit_temperature,
    log_of_probabilities,
    reliability_bins,
)
from gpuopt.model import Classifier
from gpuopt.report import reliability_figure, save_png
from gpuopt.session.evaluation import Evaluation, predict_split
from gpuopt.session.out_of_fold import write_out_of_fold
from gpuopt.session.prediction import find_checkpoint
from gpuopt.session.stored_calibration import CALIBRATION, SCHEMA
from gpuopt.storage import sha256_of, write_json
from gpuopt.tta import Predictions, TestTimeAugmentation

__all__ = [
    "RELIABILITY",
    "RunCalibration",
    "Samples",
    "calibrate",
    "conclude_validation",
    "remove_calibration",
]

_log = logging.getLogger(__name__)

RELIABILITY = "reliability.png"


@dataclass(frozen=True, eq=False)
class Samples:
    """Predictions of images whose classes are known, with a policy and without.

    Attributes:
        targets: True classes, int64 [n].
        merged: Probabilities over the views of the policy, [n, classes].
        single: Of the unchanged images, [n, classes]; None where they were not predicted.
        groups: Group of each image, where images of a group are no independent evidence.
    """

    targets: NDArray[np.int64]
    merged: NDArray[np.floating]
    single: NDArray[np.floating] | None
    groups: Sequence[str] | None = None

    @classmethod
    def of(cls, predictions: Predictions, groups: Sequence[str] | None = None) -> "Samples | None":
        """Take the predictions whose classes are known; None where there are none."""
        known = predictions.targets >= 0
        if not known.any() or predictions.single_view is None:
            return None
        own = None if groups is None else [groups[row] for row in predictions.ids[known]]
        shares, single = predictions.probabilities[known], predictions.single_view[known]
        return cls(predictions.targets[known], shares, single, own)

    def logs(self, policy: TestTimeAugmentation) -> NDArray[np.float32] | None:
        """Return log-probabilities of the policy or of the unchanged images, [n, classes]."""
        taken = self.single if policy.is_single_view else self.merged
        return None if taken is None else log_of_probabilities(taken)


@dataclass(frozen=True)
class _Fitted:
    """The temperature of one policy of views, and what it does."""

    policy: TestTimeAugmentation
    fit: TemperatureFit
    change: CalibrationChange
    test: CalibrationChange | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.policy.name,
            "fingerprint": self.policy.fingerprint,
            "temperature": self.fit.temperature,
            "is_accepted": self.fit.is_accepted,
            "reason": self.fit.reason,
            **self.change.as_dict(),
            "test": None if self.test is None else self.test.as_dict(),
        }


@dataclass(frozen=True)
class RunCalibration:
    """The temperatures of a run: of its policy of views, and of the unchanged image.

    Attributes:
        images: Number of images that they were fitted on.
        fitted_on: Which images these were, in words.
        test_images: Number of test images on which they were tried, which decided nothing.
        weights: SHA-256 of each checkpoint whose predictions they were.
        interval: What the intervals are.
        fitted: The policies, that of the run first.
    """

    images: int
    fitted_on: str
    test_images: int
    weights: Sequence[str]
    interval: str
    fitted: Sequence[_Fitted]

    @property
    def choice(self) -> Choice:
        """The line that says what was fitted for the policy of the run."""
        first = self.fitted[0]
        where = f"on {self.images} {self.fitted_on}"
        if not first.fit.is_accepted:
            reason = f"temperature 1 for tta={first.policy.name}: {first.fit.reason} {where}"
        else:
            before, after = first.change.before, first.change.after
            reason = (
                f"temperature {first.fit.temperature:.3f} for tta={first.policy.name}: NLL "
                f"{before.nll.value:.3f} to {after.nll.value:.3f} and ECE {before.ece.value:.3f} "
                f"to {after.ece.value:.3f} {where}"
            )
        if (test := first.test) is not None:
            reason += (
                f"; NLL {test.before.nll.value:.3f} to {test.after.nll.value:.3f} on "
                f"{self.test_images} test images"
            )
        return Choice("use_calibration", True, "measured", reason)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `calibration.json` and `results.json`."""
        return {
            "schema": SCHEMA,
            "fitted_on": self.fitted_on,
            "images": self.images,
            "test_images": self.test_images,
            "interval": self.interval,
            "weights_sha256": list(self.weights),
            "policies": [fitted.as_dict() for fitted in self.fitted],
        }


def calibrate(
    folder: Path,
    policy: TestTimeAugmentation,
    samples: Samples,
    test: Samples | None,
    *,
    fitted_on: str,
    weights: Sequence[str],
) -> RunCalibration:
    """Fit and measure temperatures, and write `calibration.json` and `reliability.png`.

    Args:
        folder: The run's own.
        policy: Its views.
        samples: What is fitted: validation images, or the out-of-fold images of all folds.
        test: Test images, on which the temperatures are tried as well.
        fitted_on: `validation images` or `out-of-fold images`.
        weights: SHA-256 of each checkpoint whose predictions `samples` holds.
    """
    single = TestTimeAugmentation()
    policies = {single.fingerprint: single} | {policy.fingerprint: policy}
    fitted = [_fit(each, samples, test) for each in reversed(policies.values())]
    calibration = RunCalibration(
        images=len(samples.targets),
        fitted_on=fitted_on,
        test_images=0 if test is None else len(test.targets),
        weights=weights,
        interval="95 % bootstrap by group" if samples.groups else "95 % bootstrap",
        fitted=fitted,
    )
    write_json(folder / CALIBRATION, calibration.as_dict())
    _draw(folder, calibration, samples)
    return calibration


def conclude_validation(
    folder: Path,
    model: Classifier,
    data: ImageDataModule,
    evaluation: Evaluation,
    policy: TestTimeAugmentation,
    *,
    precision: str,
    calibrates: bool,
    console: Console,
) -> RunCalibration | None:
    """Predict the validation images where files are to be made of them.

    These are the out-of-fold predictions of a fold, and the calibration of a run that asks for it.

    Args:
        folder: The run's own.
        model: With the weights that were tested, in evaluation mode on its device.
        data: Provides the images.
        evaluation: Is used when it scored the validation images already.
        policy: The views.
        precision: Arithmetic of the forward pass.
        calibrates: Fit temperatures; else a calibration of earlier weights is removed.
        console: Where the choice is printed.

    Returns:
        The calibration, where there is one.
    """
    if not calibrates:
        remove_calibration(folder)
        if data.fold is None:
            return None
    predictions = evaluation.predictions
    if evaluation.tested_on != "validation":
        predictions = predict_split(
            model,
            data,
            policy,
            "validation",
            precision=precision,
            show_progress=sys.stderr.isatty(),
            with_single_view=calibrates,
        )
    if data.fold is not None:
        with_single_view = calibrates and not policy.is_single_view
        write_out_of_fold(folder, data, predictions, with_single_view=with_single_view)
    samples = Samples.of(predictions, data.validation_groups)
    if not calibrates or samples is None:
        return None
    try:
        weights = sha256_of(find_checkpoint(folder))
    except InputError as error:  # a disk that was full all along; the scores are still there
        _log.warning("the run is not calibrated: %s", error)
        return None
    test = Samples.of(evaluation.predictions) if evaluation.tested_on == "test" else None
    calibration = calibrate(
        folder, policy, samples, test, fitted_on="validation images", weights=[weights]
    )
    console.print(str(calibration.choice), soft_wrap=True, markup=False)
    return calibration


def remove_calibration(folder: Path) -> None:
    """Remove what was fitted earlier, for weights that may have been trained further since."""
    for name in (CALIBRATION, RELIABILITY):
        (folder / name).unlink(missing_ok=True)


def _fit(policy: TestTimeAugmentation, samples: Samples, test: Samples | None) -> _Fitted:
    logs, tested = samples.logs(policy), test.logs(policy) if test else None
    assert logs is not None  # images to fit on are predicted with every policy
    fit = fit_temperature(samples.targets, logs)
    change = calibration_change(samples.targets, logs, fit.temperature, groups=samples.groups)
    if test is None or tested is None:
        return _Fitted(policy, fit, change, None)
    return _Fitted(policy, fit, change, calibration_change(test.targets, tested, fit.temperature))


def _draw(folder: Path, calibration: RunCalibration, samples: Samples) -> None:
    """Draw the policy of the run before and after, on the images that it was fitted on."""
    first = calibration.fitted[0]
    logs, temperature = samples.logs(first.policy), first.fit.temperature
    assert logs is not None  # as above
    figure = reliability_figure(
        (reliability_bins(samples.targets, logs), first.change.before),
        (reliability_bins(samples.targets, logs, temperature), first.change.after),
        temperature,
        subtitle=f"tta={first.policy.name} on {calibration.images} {calibration.fitted_on}",
    )
    save_png(figure, folder / RELIABILITY)
