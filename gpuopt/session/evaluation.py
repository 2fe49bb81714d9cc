"""Test a trained model with and without test-time augmentation, and draw what it got wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gpuopt.choice import Choice
from gpuopt.data import WindowLoader
from gpuopt.measure import (
    Interval,
    accuracy,
    bootstrap_interval,
    confusion_matrix,
    interval_by_group,
    macro_f1,
    paired_bootstrap_difference,
)
from gpuopt.memory import cut_global_batch
from gpuopt.model import ImageNetwork
from gpuopt.report import choose_samples, confusion_figure, samples_figure
from gpuopt.session.forward_pass import autocast_of, progress_bar
from gpuopt.session.pass_plan import LARGEST_ON_CPU
from gpuopt.tta import Predictions, TestTimeAugmentation, TtaPredictor, predict_loader

if TYPE_CHECKING:
    from gpuopt.data import ImageDataModule

__all__ = [
    "Evaluation",
    "chosen_in_test",
    "draw_figures",
    "evaluate",
    "predict_all",
    "predict_split",
]

_SAMPLES_SHOWN = 24


@dataclass(frozen=True)
class Evaluation:
    """Scores on the test images, or on the validation images where no test class is known.

    Attributes:
        predictions: Probabilities with and without views, of the split that was scored.
        macro_f1: Without test-time augmentation.
        accuracy: Without test-time augmentation.
        tta_macro_f1: With it.
        tta_accuracy: With it.
        difference: Macro-F1 with minus without, on the same resampled images.
        accuracy_difference: The same for the accuracy.
        groups: Macro-F1 by condition of the images, without and with.
        tested_on: The split that was scored, `test` or `validation`.
        unlabelled: Predictions of the test images, when none of their classes is known.
    """

    predictions: Predictions
    macro_f1: Interval
    accuracy: Interval
    tta_macro_f1: Interval
    tta_accuracy: Interval
    difference: Interval
    accuracy_difference: Interval
    groups: dict[str, tuple[Interval, Interval]]
    tested_on: str = "test"
    unlabelled: Predictions | None = None

    @property
    def test_predictions(self) -> Predictions:
        """Predictions of the test images, scored or not."""
        return self.predictions if self.unlabelled is None else self.unlabelled

    @property
    def known(self) -> NDArray[np.bool_]:
        """Mask [n] of the predictions whose true class is known: the ones scored."""
        mask: NDArray[np.bool_] = self.predictions.targets >= 0
        return mask


def predict_all(
    model: ImageNetwork,
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
    device = model.mean.device
    predictor = TtaPredictor(
        model,
        policy.parsed_views(),
        device=device,
        chunk_size=policy.chunk_size,
        merge=policy.merge,
        autocast=autocast_of(precision, device),
    )
    with progress_bar(show_progress) as progress:
        task = progress.add_task(label, total=total)
        return predict_loader(
            loader,
            predictor,
            with_single_view=with_single_view,
            on_batch=lambda count: progress.advance(task, count),
        )


def evaluate(
    model: ImageNetwork,
    data: "ImageDataModule",
    policy: TestTimeAugmentation,
    *,
    precision: str,
    show_progress: bool,
) -> Evaluation:
    """Predict the test images, and score those whose class is known.

    Where none is known, or there are no test images, the validation images are scored.

    Args:
        model: Is put into evaluation mode.
        data: Provides the images.
        policy: The views. They and the unchanged image share one pass when the first view is
            the identity.
        precision: Arithmetic of the forward pass.
        show_progress: Draw bars.
    """
    model.eval()

    def predict(split: str) -> Predictions:
        return predict_split(
            model, data, policy, split, precision=precision, show_progress=show_progress
        )

    if not data.has_test_set:
        return _score(predict("validation"), data, "validation")
    tests = predict("test")
    if (tests.targets >= 0).any():
        return _score(tests, data, "test")
    return replace(_score(predict("validation"), data, "validation"), unlabelled=tests)


def chosen_in_test(evaluation: Evaluation, policy: TestTimeAugmentation) -> list[Choice]:
    """List what was left to the test."""
    chunk_size = evaluation.test_predictions.chunk_size
    if policy.chunk_size != "auto" or chunk_size is None:
        return []
    most = f"at most {LARGEST_ON_CPU} on a CPU"
    reason = f"what training took, {most}; halved for each time that memory ran out"
    return [Choice("tta.chunk_size", chunk_size, "measured", reason)]


def draw_figures(evaluation: Evaluation, data: "ImageDataModule", title: str) -> dict[str, Figure]:
    """Draw the confusion matrix, sample predictions and the surest errors.

    Args:
        evaluation: The scores.
        data: Provides the images that are shown.
        title: Names run and data set.
    """
    predictions, names = _only(evaluation.predictions, evaluation.known), data.class_names
    matrix = confusion_matrix(predictions.targets, predictions.classes, len(names))
    images = "images" if evaluation.tested_on == "test" else "validation images"
    subtitle = f"macro-F1 {evaluation.tta_macro_f1} on {len(predictions.ids)} {images}"
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
                _images(data, evaluation.tested_on, predictions.ids[rows]),
                predictions.targets[rows],
                predictions.classes[rows],
                predictions.confidences[rows],
                names,
                title="Misclassified images" if only_wrong else "Sample predictions",
                subtitle=title,
            )
    return figures


def predict_split(
    model: ImageNetwork,
    data: "ImageDataModule",
    policy: TestTimeAugmentation,
    split: str,
    *,
    precision: str,
    show_progress: bool,
    with_single_view: bool = True,
) -> Predictions:
    """Predict one split with the policy's views and with the unchanged images alone.

    Args:
        model: In evaluation mode.
        data: Provides the images.
        policy: The views.
        split: `test` or `validation`.
        precision: Arithmetic of the forward pass.
        show_progress: Draw bars.
        with_single_view: Also predict the unchanged images alone.
    """
    shares_pass = policy.parsed_views()[0].is_identity
    policy = replace(policy, chunk_size=_chunk_size(policy, data, model.mean.device))

    def predict(views: TestTimeAugmentation, name: str, with_first: bool) -> Predictions:
        return predict_all(
            model,
            _loader(data, split),
            views,
            precision=precision,
            total=data.test_size if split == "test" else data.validation_size,
            label=f"{split}, {name}",
            with_single_view=with_first,
            show_progress=show_progress,
        )

    merged = predict(policy, policy.name, shares_pass and with_single_view)
    if shares_pass or not with_single_view:
        return merged
    plain = TestTimeAugmentation(chunk_size=policy.chunk_size)
    single = predict(plain, "no TTA", False)
    return replace(merged, single_view=single.probabilities)


def _chunk_size(policy: TestTimeAugmentation, data: "ImageDataModule", device: torch.device) -> int:
    """Return images per forward: where that is left to gpuopt, no more than training took.

    So many fit with their gradients, and `gpuopt predict` takes no more on a CPU either.
    """
    if policy.chunk_size != "auto":
        return int(policy.chunk_size)
    most = data.micro_batch_size
    if device.type == "cpu":
        most = min(most, LARGEST_ON_CPU)
    batch = data.evaluation_batch_size or data.micro_batch_size
    return cut_global_batch(most, batch * len(policy.views)).micro_batch_size


def _loader(data: "ImageDataModule", split: str) -> WindowLoader:
    return data.test_dataloader() if split == "test" else data.val_dataloader()


def _only(predictions: Predictions, rows: NDArray[np.bool_]) -> Predictions:
    single = predictions.single_view
    return Predictions(
        predictions.ids[rows],
        predictions.targets[rows],
        predictions.probabilities[rows],
        None if single is None else single[rows],
    )


def _score(predictions: Predictions, data: "ImageDataModule", split: str) -> Evaluation:
    known = _only(predictions, predictions.targets >= 0)
    targets, merged = known.targets, known.classes
    assert known.single_view is not None  # evaluate() always asks for it
    single = known.single_view.argmax(axis=1)
    groups = _groups(data, known) if split == "test" else {}
    without = interval_by_group(targets, single, groups)
    with_views = interval_by_group(targets, merged, groups)
    return Evaluation(
        predictions=predictions,
        macro_f1=bootstrap_interval(targets, single, macro_f1),
        accuracy=bootstrap_interval(targets, single, accuracy),
        tta_macro_f1=bootstrap_interval(targets, merged, macro_f1),
        tta_accuracy=bootstrap_interval(targets, merged, accuracy),
        difference=paired_bootstrap_difference(targets, single, merged, macro_f1),
        accuracy_difference=paired_bootstrap_difference(targets, single, merged, accuracy),
        groups={name: (without[name], with_views[name]) for name in without},
        tested_on=split,
    )


def _groups(data: "ImageDataModule", predictions: Predictions) -> dict[str, Any]:
    """Ask a data set that knows its test images' conditions, in the predictions' order."""
    conditions: Callable[[], Mapping[str, Any]] | None = getattr(data, "condition_groups", None)
    if conditions is None:
        return {}
    return {name: np.asarray(mask)[predictions.ids] for name, mask in conditions().items()}


def _images(data: "ImageDataModule", split: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read single images of a split, uint8 [n, 3, s, s]."""
    images: NDArray[np.uint8] = _loader(data, split).dataset.read(rows).numpy()
    return images
