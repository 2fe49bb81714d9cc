"""Score every view of a run's validation or out-of-fold images, once for every view.

What a view gives depends on weights, images, arithmetic and code; under all of these it is kept on
the disk, view by view, so that a new policy only computes the views that no other one had.
"""

import functools
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuopt.errors import FaultError, InputError
from gpuopt.session.forward_pass import autocast_of, progress_bar
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.weights import ModelDescription, load_described
from gpuopt.storage import AnswerCache, sha256_of
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.tta.held_out import HeldOutScores
from gpuopt.tta.view_scores import score_views
from gpuopt.tta.views import View

if TYPE_CHECKING:
    from gpuopt.data import ImageDataModule
    from gpuopt.model import ImageNetwork

__all__ = [
    "HeldOutPart",
    "code_versions",
    "digest_of_images",
    "image_files",
    "load_part",
    "score_parts",
]

_PACKAGES = ("timm", "torch", "torchvision")


@dataclass(frozen=True, eq=False)
class HeldOutPart:
    """A model and the images that it was not trained on.

    Attributes:
        checkpoint: Its weights.
        data: Validates on these images.
        fold: Of a run of folds; None for a run of one training.
    """

    checkpoint: Path
    data: "ImageDataModule"
    fold: int | None = None

    @property
    def label(self) -> str:
        """Words for a progress bar."""
        return "validation" if self.fold is None else f"fold {self.fold}"


def score_parts(
    parts: Sequence[HeldOutPart],
    description: ModelDescription,
    views: Sequence[View],
    setup: PredictionSetup,
    *,
    chunk_size: int,
    cache: AnswerCache,
    show_progress: bool,
) -> HeldOutScores:
    """Score views of all parts, reading what is known.

    Args:
        parts: One, or the folds of a run.
        description: What all models were trained on.
        views: Each once.
        setup: Device, precision and batch.
        chunk_size: Images per forward.
        cache: Of what was scored before.
        show_progress: Draw bars.

    Raises:
        InputError: When there are no validation images, or a part has another model or classes.
        FaultError: When memory runs out, a loader process dies or outputs are not finite.
    """

    def compute(part: HeldOutPart, missing: Sequence[View]) -> list[NDArray[np.floating]]:
        return _compute(part, description, missing, setup, chunk_size, show_progress=show_progress)

    found = [_score_part(part, description, views, setup, cache, compute) for part in parts]
    groups = [part.data.validation_groups for part in parts]
    return HeldOutScores(
        tuple(views),
        [np.concatenate([scores[i] for scores in found]) for i in range(len(views))],
        np.concatenate([part.data.validation_targets for part in parts]),
        None if groups[0] is None else [name for names in groups for name in names or ()],
        folds=len(parts),
    )


def load_part(part: HeldOutPart, description: ModelDescription) -> "ImageNetwork":
    """Load the model of a part in evaluation mode.

    Raises:
        InputError: When it was trained on something else than the description says.
    """
    path = part.checkpoint
    model, own = load_described(read_checkpoint(path), str(path))
    if own != description:
        raise InputError(
            f"{path} has another model, image size or classes than the run's other folds: it does "
            "not belong to this run; train it again"
        )
    return model


def image_files(data: "ImageDataModule") -> list[Path]:
    """List the files that a data set's validation images come from, or may come from."""
    sets = data.read_sets()
    images = (sets.validation or sets.train).images
    return images if isinstance(images, list) else []


def digest_of_images(data: "ImageDataModule") -> str:
    """Digest names and classes of the validation images, and sizes and times of all files."""
    digest = hashlib.sha256(type(data).__name__.encode())
    for name, target in zip(data.validation_ids, data.validation_targets, strict=True):
        digest.update(f"{name}\t{target}\n".encode("utf-8", "surrogateescape"))
    for path in image_files(data):
        status = path.stat()
        digest.update(os.fsencode(path.name) + f"\t{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _score_part(
    part: HeldOutPart,
    description: ModelDescription,
    views: Sequence[View],
    setup: PredictionSetup,
    cache: AnswerCache,
    compute: Callable[[HeldOutPart, Sequence[View]], list[NDArray[np.floating]]],
) -> list[NDArray[np.floating]]:
    data = part.data
    data.prepare_data()
    data.setup()
    if tuple(data.class_names) != description.class_names:
        raise InputError(f"the data's classes are not those of {part.checkpoint}: restore the data")
    shape = (data.validation_size, len(description.class_names))
    question = _question(part, setup)
    known: dict[View, NDArray[np.floating]] = {}
    for view in views:
        answer = cache.read(question | {"view": _spelled(view)})
        if answer is not None and (array := _from_bytes(answer, shape)) is not None:
            known[view] = array
    missing = [view for view in views if view not in known]
    if missing:
        for view, scores in zip(missing, compute(part, missing), strict=True):
            cache.write(question | {"view": _spelled(view)}, _to_bytes(scores))
            known[view] = scores
    return [known[view] for view in views]


def _compute(
    part: HeldOutPart,
    description: ModelDescription,
    views: Sequence[View],
    setup: PredictionSetup,
    chunk_size: int,
    *,
    show_progress: bool,
) -> list[NDArray[np.floating]]:
    with setup.applied(), progress_bar(show_progress) as progress:
        model = load_part(part, description).to(setup.device)
        size = part.data.validation_size
        task = progress.add_task(f"{part.label}, {len(views)} views", total=size)
        found = score_views(
            part.data.val_dataloader(),
            model,
            views,
            device=model.mean.device,
            chunk_size=chunk_size,
            autocast=autocast_of(setup.precision, model.mean.device),
            on_batch=lambda count: progress.advance(task, count),
        )
    if not np.array_equal(found.ids, np.arange(size)):
        raise FaultError("the loader left out validation images: run the command again")
    return list(found.log_probabilities)


def _question(part: HeldOutPart, setup: PredictionSetup) -> dict[str, Any]:
    """Word what scores depend on, the view left out."""
    return {
        "kind": "log-probabilities of a view",
        "weights": sha256_of(part.checkpoint),
        "images": digest_of_images(part.data),
        "image_size": part.data.image_size,
        "precision": setup.precision,
        "device": setup.device,
        **code_versions(),
    }


def code_versions() -> dict[str, str]:
    """Word which code predicts, as a part of questions to a cache."""
    return {"code": _code(), **{package: version(package) for package in _PACKAGES}}


@functools.cache
def _code() -> str:
    """Digest how images are read and views made, which changes between versions as well."""
    package = Path(__file__).parents[1]
    files = [*(package / "tta").glob("*.py"), *(package / "model").glob("*.py")]
    files += [package / "data" / "decode.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


def _spelled(view: View) -> list[list[Any]]:
    return [list(operation) for operation in view.operations]


def _to_bytes(array: NDArray[np.floating]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _from_bytes(answer: bytes, shape: tuple[int, int]) -> NDArray[np.floating] | None:
    try:
        array = np.load(io.BytesIO(answer), allow_pickle=False)
    except ValueError:
        return None
    is_right = array.shape == shape and array.dtype.kind == "f"
    return array if is_right else None
