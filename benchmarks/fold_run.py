"""A run of folds that took no training, where only the time of predicting with it counts.

The networks have random initial weights. Only their heads are fitted, by least squares, to all
images of training, so that classes lie as far apart as the proof of an engine expects of a model
that was trained on them. What is written as out of fold is therefore none: no score says anything.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpuopt.config import compose_settings
from gpuopt.data import PredictionImages, prediction_images
from gpuopt.data.drawing import CLASS_NAMES, DocumentSet
from gpuopt.model import Classifier
from gpuopt.report import write_rows_csv
from gpuopt.run import RunFolder, fold_folder
from gpuopt.session.out_of_fold import OUT_OF_FOLD
from gpuopt.session.weights import describe_model
from gpuopt.storage import write_json
from gpuopt.storage.checkpoint import write_checkpoint

__all__ = ["RANDOM_WEIGHTS", "FoldRun", "make_fold_run"]

RANDOM_WEIGHTS = "random initial weights with fitted heads"

_ROUNDING_WEIGHT = 1.0  # of what rounding moves; less lets heads magnify it, more joins classes
_LOGIT_GAP = 20.0  # between a class and the others where the fit is perfect
_BATCH_SIZE = 32


@dataclass(frozen=True)
class FoldRun:
    """What a run is of.

    Attributes:
        model: timm model name.
        image_size: Side in pixels.
        folds: Number of models.
        documents: The drawn images. Heads are fitted to those of training.
        cache_dir: Where they lie.
    """

    model: str
    image_size: int
    folds: int
    documents: DocumentSet
    cache_dir: Path

    @property
    def test_folder(self) -> Path:
        """The images to predict, without class folders."""
        return self.cache_dir / self.documents.folder_name / "test"

    def settings(self) -> dict[str, Any]:
        """Compose the configuration that `gpuopt train` would have stored."""
        words = [
            "model=timm",
            f"model.name={self.model}",
            "model.pretrained=false",
            f"image_size={self.image_size}",
            f"folds={self.folds}",
            "data=documents",
            f"data.drawn_size={self.documents.size_px}",
            f"data.train_count={self.documents.train_count}",
            f"data.test_count={self.documents.test_count}",
        ]
        return compose_settings("train", words)


def make_fold_run(folder: Path, run: FoldRun, device: torch.device) -> None:
    """Draw the images and write the folder of a run, where they are not there yet.

    Args:
        folder: Of the run; nothing else lies there.
        run: What it is of.
        device: Computes the features that heads are fitted to.
    """
    run.documents.draw(run.cache_dir / run.documents.folder_name)
    config = run.settings()
    if (folder / "config.yaml").exists() and RunFolder(folder).read_config() == config:
        return
    images = _TrainingImages.read(run)
    for fold in range(run.folds):
        print(f"fold {fold} of {run.folds}: {run.model}, {RANDOM_WEIGHTS}", flush=True)
        own = fold_folder(folder, fold)
        RunFolder(own).write_config({**config, "fold": fold})
        _write_fold(own, run, fold, images, device)
    RunFolder(folder).write_config(config)  # last: a folder that holds it is complete


@dataclass(frozen=True, eq=False)
class _TrainingImages:
    """Images, uint8 [n, 3, s, s], with their names and classes [n]."""

    names: Sequence[str]
    images: Tensor
    targets: NDArray[np.int64]

    @classmethod
    def read(cls, run: FoldRun) -> "_TrainingImages":
        folder = run.cache_dir / run.documents.folder_name / "train"
        known = {sample.file_name: sample.target for sample in run.documents.samples()}
        found = PredictionImages(
            prediction_images(folder), run.image_size, _BATCH_SIZE, cache_dir=run.cache_dir
        )
        images = torch.cat([batch.images for batch in found.loader()])[: len(found)]
        targets = np.array([known[name] for name in found.ids], np.int64)
        return cls(found.ids, images, targets)


def _write_fold(
    folder: Path, run: FoldRun, fold: int, images: _TrainingImages, device: torch.device
) -> None:
    """Write what `gpuopt predict` asks of a finished fold."""
    torch.manual_seed(fold)
    model = Classifier(run.model, len(CLASS_NAMES)).eval().to(device)
    features = _features(model, images.images)
    rounding = _features(_rounded(model), images.images) - features
    weight, bias = _fit_head(features, rounding, images.targets)
    is_own = np.arange(len(images.names)) % run.folds == fold
    network: Any = model.backbone  # timm has no types
    head = network.get_classifier()
    assert isinstance(head, nn.Linear)  # the networks of these programs end so
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    shares = torch.softmax(features[is_own] @ weight.T + bias, 1).numpy()
    _write_out_of_fold(
        folder, fold, [images.names[row] for row in np.flatnonzero(is_own).tolist()],
        images.targets[is_own], shares,
    )  # fmt: skip
    described = describe_model(model, CLASS_NAMES, run.image_size)
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    checkpoint = {"gpuopt": described, "state_dict": state, "epoch": 0, "global_step": 0}
    write_checkpoint(checkpoint, folder / "checkpoints" / "best.ckpt")
    write_json(folder / "results.json", {"state": "finished", "weights": RANDOM_WEIGHTS})


@torch.inference_mode()
def _features(model: Classifier, images: Tensor) -> Tensor:
    """Compute what the head reads, float64 [n, d] on the host.

    Without TF32: it rounds as fp16 does, and what rounding moves would not show.
    """
    network: Any = model.backbone  # timm has no types
    parts = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for part in torch.split(images, _BATCH_SIZE):
            pixels = (part.to(model.device).float() - model.mean) / model.std
            features = network.forward_features(pixels)
            parts.append(network.forward_head(features, pre_logits=True).cpu())
    return torch.cat(parts).double()


def _rounded(model: Classifier) -> Classifier:
    """Copy a network and round to fp16 what its layers multiply, as engines of that type do."""

    def round_input(_: nn.Module, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (values[0].half().float(), *values[1:])

    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = module.weight.data.half().float()
            module.register_forward_pre_hook(round_input)
    return rounded


def _fit_head(
    features: Tensor, rounding: Tensor, targets: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Fit a linear head to classes by least squares, away from directions that rounding moves.

    Args:
        features: float64 [n, d].
        rounding: What another precision adds to them, float64 [n, d].
        targets: Classes, [n].

    Returns:
        Weight [classes, d] and bias [classes], float64.
    """
    wanted = torch.eye(len(CLASS_NAMES), dtype=torch.float64)[torch.from_numpy(targets)]
    mean, centre = features.mean(0), wanted.mean(0)
    rows, moved = features - mean, rounding - rounding.mean(0)
    noise = moved.T @ moved
    noise.diagonal().add_(noise.trace() / len(noise))  # directions without images, too
    product = rows.T @ rows + _ROUNDING_WEIGHT * noise
    weight = _LOGIT_GAP * torch.linalg.solve(product, rows.T @ (wanted - centre)).T
    return weight, _LOGIT_GAP * centre - weight @ mean


def _write_out_of_fold(
    folder: Path,
    fold: int,
    names: Sequence[str],
    targets: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> None:
    header = ["id", "fold", "target", "prediction", *(f"p_{name}" for name in CLASS_NAMES)]
    rows: list[list[str | int]] = [
        [name, fold, CLASS_NAMES[target], CLASS_NAMES[row.argmax()], *(f"{p:.6g}" for p in row)]
        for name, target, row in zip(names, targets, shares, strict=True)
    ]
    write_rows_csv(folder / OUT_OF_FOLD, header, rows)
