"""Test a trained model with and without test-time augmentation, and draw what it got wrong."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpuopt.data import ImageDataModule, ImageDataset
from gpuopt.measure import (
    Interval,
    accuracy,
    bootstrap_interval,
    confusion_matrix,
    interval_by_group,
    macro_f1,
    paired_bootstrap_difference,
)
from gpuopt.model import Classifier
from gpuopt.report import choose_samples, confusion_figure, samples_figure
from gpuopt.tta import Predictions, TestTimeAugmentation, TtaPredictor, predict_loader

__all__ = ["Evaluation", "draw_figures", "evaluate", "predict_all"]

_SAMPLES_SHOWN = 24


@dataclass(frozen=True)
class Evaluation:
    """Scores on the test set.

    Attributes:
        predictions: Probabilities with and without views.
        macro_f1: Without test-time augmentation.
        accuracy: Without test-time augmentation.
        tta_macro_f1: With it.
        tta_accuracy: With it.
        difference: Macro-F1 with minus without, on the same resampled images.
        accuracy_difference: The same for the accuracy.
        groups: Macro-F1 by condition of the images, without and with.
    """

    predictions: Predictions
    macro_f1: Interval
    accuracy: Interval
    tta_macro_f1: Interval
    tta_accuracy: Interval
    difference: Interval
    accuracy_difference: Interval
    groups: dict[str, tuple[Interval, Interval]]


def predict_all(
    model: Classifier,
    loader: Any,
    policy: TestTimeAugmentation,
    *,
    precision: str,
    total: int,
    label: str,
    with_single_view: bool,
    show_progress: bool,
) -> Predictions:
    """Predict every image of a loader on the model's device, under a progress bar.

    Args:
        model: In evaluation mode.
        loader: Yields batches of uint8 images.
        policy: The views.
        precision: Arithmetic of the forward pass.
        total: Number of images.
        label: What the bar says.
        with_single_view: Also return what the unchanged images give.
        show_progress: Draw the bar.
    """
    device = model.device
    predictor = TtaPredictor(
        model,
        policy.parsed_views(),
        device=device,
        chunk_size=policy.chunk_size,
        merge=policy.merge,
        autocast=_autocast(precision, device),
    )
    with _progress(show_progress) as progress:
        task = progress.add_task(label, total=total)
        return predict_loader(
            loader,
            predictor,
            with_single_view=with_single_view,
            on_batch=lambda count: progress.advance(task, count),
        )


def evaluate(
    model: Classifier,
    data: ImageDataModule,
    policy: TestTimeAugmentation,
    *,
    precision: str,
    show_progress: bool,
) -> Evaluation:
    """Score a model on the test set, or on the validation set where there is none.

    Views and the unchanged image come from one pass when the policy's first view is the identity.
    """
    options: dict[str, Any] = {
        "precision": precision,
        "total": data.test_size,
        "show_progress": show_progress,
    }
    model.eval()
    shares_pass = policy.parsed_views()[0].is_identity
    predictions = predict_all(
        model,
        data.test_dataloader(),
        policy,
        label=f"test, {policy.name}",
        with_single_view=shares_pass,
        **options,
    )
    if not shares_pass:
        single = predict_all(
            model,
            data.test_dataloader(),
            TestTimeAugmentation(),
            label="test, no TTA",
            with_single_view=False,
            **options,
        )
        predictions = Predictions(
            predictions.ids, predictions.targets, predictions.probabilities, single.probabilities
        )
    return _score(predictions, _groups(data, predictions))


def draw_figures(evaluation: Evaluation, data: ImageDataModule, title: str) -> dict[str, Figure]:
    """Draw the confusion matrix, sample predictions and the surest errors.

    Args:
        evaluation: The scores.
        data: Provides the images that are shown.
        title: Names run and data set.
    """
    predictions, names = evaluation.predictions, data.class_names
    matrix = confusion_matrix(predictions.targets, predictions.classes, len(names))
    subtitle = f"macro-F1 {evaluation.tta_macro_f1} on {len(predictions.ids)} images"
    figures = {
        "confusion_matrix": confusion_figure(matrix, names, subtitle=f"{title} · {subtitle}")
    }
    for key, only_wrong in (("samples", False), ("misclassified", True)):
        rows = choose_samples(
            predictions.targets,
            predictions.classes,
            predictions.confidences,
            _SAMPLES_SHOWN,
            only_wrong=only_wrong,
        )
        if len(rows):
            figures[key] = samples_figure(
                _images(data, predictions.ids[rows]),
                predictions.targets[rows],
                predictions.classes[rows],
                predictions.confidences[rows],
                names,
                title="Misclassified images" if only_wrong else "Sample predictions",
                subtitle=title,
            )
    return figures


def _score(predictions: Predictions, groups: Mapping[str, Any]) -> Evaluation:
    known = predictions.targets >= 0
    targets = predictions.targets[known]
    merged = predictions.classes[known]
    assert predictions.single_view is not None  # evaluate() always asks for it
    single = predictions.single_view.argmax(axis=1)[known]
    masks = {name: np.asarray(mask)[known] for name, mask in groups.items()}
    without = interval_by_group(targets, single, masks)
    with_views = interval_by_group(targets, merged, masks)
    return Evaluation(
        predictions=predictions,
        macro_f1=bootstrap_interval(targets, single, macro_f1),
        accuracy=bootstrap_interval(targets, single, accuracy),
        tta_macro_f1=bootstrap_interval(targets, merged, macro_f1),
        tta_accuracy=bootstrap_interval(targets, merged, accuracy),
        difference=paired_bootstrap_difference(targets, single, merged, macro_f1),
        accuracy_difference=paired_bootstrap_difference(targets, single, merged, accuracy),
        groups={name: (without[name], with_views[name]) for name in without},
    )


def _groups(data: ImageDataModule, predictions: Predictions) -> dict[str, Any]:
    """Ask a data set that knows its images' conditions for them, in the predictions' order."""
    conditions: Callable[[], Mapping[str, Any]] | None = getattr(data, "condition_groups", None)
    if conditions is None:
        return {}
    return {name: np.asarray(mask)[predictions.ids] for name, mask in conditions().items()}


def _images(data: ImageDataModule, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read single test images, uint8 [n, 3, s, s]."""
    dataset = data.test_dataloader().dataset
    assert isinstance(dataset, ImageDataset)  # the base class makes no other
    images: NDArray[np.uint8] = dataset.read(rows).numpy()
    return images


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, kinds[precision])


def _progress(visible: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not visible,
        transient=True,
    )
