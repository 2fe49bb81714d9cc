"""The weights of a run, of one training or of several folds, and the mean of what they predict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.measure import apply_temperature
from gpuopt.model import Classifier
from gpuopt.session.fold_results import read_fold
from gpuopt.session.prediction import (
    ImageSource,
    PredictionSetup,
    find_checkpoint,
    predict_images,
)
from gpuopt.session.weights import ModelDescription, load_described
from gpuopt.storage import Sidecar
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.tta import Predictions, TestTimeAugmentation

__all__ = ["Ensemble"]


@dataclass
class Ensemble:
    """Models that predict together; one is in memory at a time.

    Attributes:
        paths: Checkpoint of each model.
        folds: Number of folds of the run; None for a run of one training.
        missing: Folds that are not there, by number, with the reason.
        description: What the models were trained on.
    """

    paths: Sequence[Path]
    folds: int | None
    missing: dict[int, str]
    description: ModelDescription
    _first: Classifier | None

    @classmethod
    def open(cls, place: Path, *, folds: int | None = None) -> "Ensemble":
        """Find the weights of a run and load the first.

        Args:
            place: A run folder or a checkpoint file.
            folds: Number of folds, for the folder of a run of folds.

        Raises:
            InputError: When there are no intact weights, or they cannot be used.
        """
        if folds is None:
            paths: list[Path] = [find_checkpoint(place)]
            missing: dict[int, str] = {}
        else:
            paths, missing = _weights_of_folds(place, folds)
        first, description = load_described(read_checkpoint(paths[0]), str(paths[0]))
        return cls(paths, folds, missing, description, first)

    @property
    def missing_in_words(self) -> str:
        """Name the folds that are not there, in one line."""
        reasons = ", ".join(f"fold {fold} ({why})" for fold, why in self.missing.items())
        return f"mean of {len(self.paths)} of {self.folds} folds; missing: {reasons}"

    def predict(
        self,
        setup: PredictionSetup,
        policy: TestTimeAugmentation,
        source: ImageDataModule | ImageSource,
        *,
        cache_dir: str | None,
        show_progress: bool,
        temperature: float = 1.0,
    ) -> tuple[Predictions, list[str], list[str]]:
        """Predict with every model and average the probabilities in fp32.

        Args:
            setup: Device, precision and batch.
            policy: The views.
            source: A data module, or images without classes.
            cache_dir: Folder of decoded images; None means the user's cache folder.
            show_progress: Draw bars.
            temperature: Calibrates the mean; 1 changes nothing.

        Returns:
            The predictions, the id of each, and files left out with the reason.

        Raises:
            InputError: As `predict_images`; when a model has other classes than the first; and
                when the images of folds without a test set are meant, which they trained on.
            FaultError: When memory runs out or a loader process dies.
        """
        self._refuse_training_images(source)
        first: tuple[Predictions, list[str], list[str]] | None = None
        for path in self.paths:
            found = predict_images(
                self._take(path),
                self.description,
                setup,
                policy,
                source,
                cache_dir=cache_dir,
                show_progress=show_progress,
            )
            if first is None:
                first, total = found, found[0].probabilities.astype(np.float32)
            else:
                total += found[0].probabilities
        assert first is not None  # there is at least one model
        mean = apply_temperature(total / np.float32(len(self.paths)), temperature)
        return replace(first[0], probabilities=mean), *first[1:]

    def _take(self, path: Path) -> Classifier:
        """Load a model; nothing here keeps it, so that the next one can have its memory."""
        model, self._first = self._first, None
        if model is not None:
            return model
        model, description = load_described(read_checkpoint(path), str(path))
        if description != self.description:
            raise InputError(
                f"{path} has another model, image size or classes than {self.paths[0]}: its fold "
                "does not belong to this run; train it again"
            )
        return model

    def _refuse_training_images(self, source: ImageDataModule | ImageSource) -> None:
        if self.folds is None or not isinstance(source, ImageDataModule):
            return
        source.prepare_data()
        if not source.has_test_set:
            raise InputError(
                "the run's data has no test images, and the folds were trained on all others: say "
                "what to predict with data=...; out_of_fold.csv has the training images"
            )


def _weights_of_folds(place: Path, folds: int) -> tuple[list[Path], dict[int, str]]:
    paths: list[Path] = []
    missing: dict[int, str] = {}
    for fold in range(folds):
        folder = place / f"fold_{fold}"
        path = folder / "checkpoints" / "best.ckpt"
        if not path.exists():
            missing[fold] = "not trained"
        elif Sidecar(path).match() is None:
            missing[fold] = "damaged"
        elif read_fold(folder, fold) is None:
            missing[fold] = "not finished"
        else:
            paths.append(path)
    if not paths:
        reasons = ", ".join(f"fold {fold} {why}" for fold, why in missing.items())
        raise InputError(f"{place} has no finished fold ({reasons}): go on with resume={place}")
    return paths, missing
