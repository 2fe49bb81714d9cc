"""The weights of a run, of one training or of several folds, and the mean of what they predict."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpuopt.errors import InputError
from gpuopt.hardware import available_cpus, processor_name
from gpuopt.session.fold_results import read_fold
from gpuopt.session.forward_pass import autocast_of, progress_bar
from gpuopt.session.part_files import PartFiles, going_on_later
from gpuopt.session.pass_plan import PassPlan
from gpuopt.session.prediction import (
    ImageSource,
    OpenedImages,
    PredictionSetup,
    find_checkpoint,
    open_images,
)
from gpuopt.session.streamed import Forwards, StreamedPredictions, StreamOptions
from gpuopt.session.view_passes import code_versions
from gpuopt.session.weights import (
    ModelDescription,
    build_described,
    load_weights,
    read_description,
    weights_of,
)
from gpuopt.storage import IntactFile, Sidecar
from gpuopt.storage.checkpoint import damaged, read_checkpoint
from gpuopt.tta import LastPass, TestTimeAugmentation, TtaPredictor, stream_pass

if TYPE_CHECKING:  # importing the networks takes seconds
    from gpuopt.data import ImageDataModule
    from gpuopt.model import ImageNetwork

__all__ = ["Ensemble"]

_log = logging.getLogger(__name__)
_AT_ONCE = 8  # models whose weights are read together; until they are on a card, the host has them


@dataclass
class Ensemble:
    """Models that predict together; a pass over the images keeps some of them in memory.

    Attributes:
        files: Checkpoint of each model, digested.
        folds: Number of folds of the run; None for a run of one training.
        missing: Folds that are not there, by number, with the reason.
        description: What the models were trained on.
    """

    files: Sequence[IntactFile]
    folds: int | None
    missing: dict[int, str]
    description: ModelDescription
    _first: "ImageNetwork | None" = None

    @classmethod
    def open(cls, place: Path, *, folds: int | None = None) -> "Ensemble":
        """Find the weights of a run and read what they are of.

        Args:
            place: A run folder or a checkpoint file.
            folds: Number of folds, for the folder of a run of folds.

        Raises:
            InputError: When there is no intact checkpoint, or it does not describe its model.
        """
        if folds is None:
            files: list[IntactFile] = [_digested(find_checkpoint(place))]
            missing: dict[int, str] = {}
        else:
            files, missing = _weights_of_folds(place, folds)
        return cls(files, folds, missing, _description(files[0]))

    @property
    def paths(self) -> list[Path]:
        """Checkpoint of each model."""
        return [file.path for file in self.files]

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each checkpoint."""
        return [file.sha256 for file in self.files]

    @property
    def missing_in_words(self) -> str:
        """Name the folds that are not there, in one line."""
        reasons = ", ".join(f"fold {fold} ({why})" for fold, why in self.missing.items())
        return f"mean of {len(self.files)} of {self.folds} folds; missing: {reasons}"

    def weights_bytes(self) -> int:
        """Return what the weights of one model take, in bytes; the model, in fp32, is not built.

        Raises:
            InputError: When the checkpoint cannot be read or holds no weights.
        """
        file = self.files[0]
        state = weights_of(read_checkpoint(file.path, intact=file), str(file.path))
        in_fp32 = torch.float32.itemsize
        return sum(v.numel() * max(v.itemsize, in_fp32) for v in state.values())

    def load_first(self) -> None:
        """Build the first model, which `predict` then takes: wrong weights show before any work.

        Raises:
            InputError: When the weights are not those of the model.
        """
        self._first = self._take(self.files[0])

    def predict(
        self,
        setup: PredictionSetup,
        plan: PassPlan,
        policy: TestTimeAugmentation,
        source: "ImageDataModule | ImageSource",
        output: Path,
        *,
        options: StreamOptions,
    ) -> StreamedPredictions:
        """Predict with every model and average the probabilities in fp32, batch by batch on disk.

        Args:
            setup: Device, precision and batch.
            plan: The chunk, and how many models share a pass.
            policy: The views.
            source: A data module, or images without classes.
            output: The file that the predictions will be written to; parts lie beside it.
            options: What else there is to say.

        Returns:
            The predictions, whose parts are still there.

        Raises:
            InputError: When images cannot be read, or classes do not match; when a model has other
                classes than the first; when the images of folds without a test set are meant,
                which they trained on; when a prediction that shall be gone on with was begun
                otherwise.
            FaultError: When memory runs out, the disk is full or a loader process dies.
            PreemptedError: When asked to stop with something done.
        """
        with setup.applied():
            if not options.forwards.knows(self.files[0]):
                self.load_first()
            self._refuse_training_images(source)
            images = open_images(source, self.description, setup, options.cache_dir)
        groups = plan.groups(len(self.paths))
        parts = PartFiles(
            output,
            self._identity(setup, plan, policy, images) | dict(options.identity),
            passes=len(groups),
            batches=len(images.loader),
            resumes=options.resumes,
        )
        with going_on_later(parts, output, len(images.ids)), setup.applied():
            if parts.has_begun:
                _log.info("going on after %s", parts.progress(len(images.ids)))
            while True:
                if not parts.is_complete:
                    group = [self.files[number] for number in groups[parts.number]]
                    self._run(group, setup, plan, policy, images, parts, options)
                if parts.is_last:
                    break
                parts.next_pass()
            return StreamedPredictions.of(parts, images.ids, images.rejected, output)

    def _run(
        self,
        files: Sequence[IntactFile],
        setup: PredictionSetup,
        plan: PassPlan,
        policy: TestTimeAugmentation,
        images: OpenedImages,
        parts: PartFiles,
        options: StreamOptions,
    ) -> None:
        """Predict the batches that the present pass has not seen yet.

        The models live no longer than this call, so that those of the next pass can have the
        memory.
        """
        device = setup.torch_device
        predictor = TtaPredictor(
            self._forwards(files, setup, options.forwards),
            policy.parsed_views(),
            device=device,
            chunk_size=parts.file.chunk_size or plan.chunk_size,
            merge=policy.merge,
            autocast=autocast_of(setup.precision, device),
        )
        images.loader.sampler.start_at(parts.file.batches)
        with progress_bar(options.show_progress) as progress:
            task = progress.add_task(
                f"predict, {policy.name}", total=len(images.ids), completed=parts.samples
            )
            stream_pass(
                images.loader,
                predictor,
                parts.file,
                earlier=parts.earlier,
                last=LastPass(len(self.paths), options.finish) if parts.is_last else None,
                on_batch=lambda count: progress.advance(task, count),
            )

    def _forwards(
        self, files: Sequence[IntactFile], setup: PredictionSetup, forwards: Forwards
    ) -> list[Callable[[Tensor], Tensor]]:
        """Open what is called for each checkpoint; a model is built only where it is needed."""
        for file in files:
            if _description(file) != self.description:
                raise InputError(
                    f"{file.path} has another model, image size or classes than "
                    f"{self.files[0].path}: its fold does not belong to this run; train it again"
                )
        opened = forwards.reopen(files)
        missing = [file for file, forward in zip(files, opened, strict=True) if forward is None]
        models = self._loaded(missing)
        found = [
            forward or forwards.forward_of(next(models).to(setup.torch_device), file)
            for file, forward in zip(files, opened, strict=True)
        ]
        self._first = None  # it was of a pass that is over
        return found

    def _identity(
        self,
        setup: PredictionSetup,
        plan: PassPlan,
        policy: TestTimeAugmentation,
        images: OpenedImages,
    ) -> dict[str, Any]:
        """Name all that decides about a bit of the result, in plain values."""
        return {
            "weights": list(self.digests),
            "images": images.loader.dataset.fingerprint(),
            "image_size": self.description.image_size,
            "tta.views": [f"{view.name} x {view.weight:g}" for view in policy.parsed_views()],
            "tta.merge": policy.merge,
            "tta.chunk_size": plan.chunk_size,
            "folds_per_pass": plan.models_per_pass,
            "batch_size": setup.batch_size,
            "precision": setup.precision,
            "device": _name_of_device(setup),
            **code_versions(),
        }

    def _loaded(self, files: Sequence[IntactFile]) -> Iterator["ImageNetwork"]:
        """Load models in order, the weights of several at the same time.

        Nothing here keeps a model that was given away. The threads have ended before the first is:
        loader processes and the making of engines, which fork, come after.
        """
        for first in range(0, len(files), _AT_ONCE):
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                filled = deque(
                    pool.submit(self._begin(file)) for file in files[first : first + _AT_ONCE]
                )
            while filled:
                yield filled.popleft().result()

    def _take(self, file: IntactFile) -> "ImageNetwork":
        return self._begin(file)()

    def _begin(self, file: IntactFile) -> Callable[[], "ImageNetwork"]:
        """Build a model; what is returned, and may run in a thread, gives it its weights.

        Nothing here keeps it, so that the next one can have its memory.
        """
        first, self._first = self._first, None
        if first is not None and file == self.files[0]:
            return lambda: first
        return _begin(file)

    def _refuse_training_images(self, source: "ImageDataModule | ImageSource") -> None:
        if self.folds is None or isinstance(source, ImageSource):
            return
        source.prepare_data()
        if not source.has_test_set:
            raise InputError(
                "the run's data has no test images, and the folds were trained on all others: say "
                "what to predict with data=...; out_of_fold.csv has the training images"
            )


def _name_of_device(setup: PredictionSetup) -> str:
    """Name what computes: another card or processor rounds otherwise."""
    return torch.cuda.get_device_name() if setup.device == "cuda" else processor_name()


def _begin(file: IntactFile) -> Callable[[], "ImageNetwork"]:
    """Build a model; the call that is returned gives it its weights, and gives it away.

    Only that call may run in a thread: what is before it changes the filters of warnings.
    """
    where = str(file.path)
    checkpoint = read_checkpoint(file.path, intact=file)
    model, _ = build_described(checkpoint, where)

    def fill() -> "ImageNetwork":
        load_weights(model, checkpoint, where)
        return model

    return fill


def _description(file: IntactFile) -> ModelDescription:
    """Read what a checkpoint is of, without its weights."""
    return read_description(read_checkpoint(file.path, intact=file), str(file.path))


def _digested(path: Path) -> IntactFile:
    """Digest a checkpoint; one without a sidecar may come from anywhere.

    Raises:
        InputError: When it is not what its sidecar tells, or cannot be read.
    """
    try:
        file = IntactFile.of_run(path) if Sidecar(path).records() else IntactFile.of_any(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if file is None:
        raise damaged(path)
    return file


def _weights_of_folds(place: Path, folds: int) -> tuple[list[IntactFile], dict[int, str]]:
    folders = [place / f"fold_{fold}" for fold in range(folds)]
    # Gigabytes: digesting leaves Python's lock, so that threads do it at the same time.
    with ThreadPoolExecutor(max_workers=min(folds, available_cpus())) as pool:
        paths = [folder / "checkpoints" / "best.ckpt" for folder in folders]
        digested = list(pool.map(IntactFile.of_run, paths))
    files: list[IntactFile] = []
    missing: dict[int, str] = {}
    for fold, (path, file) in enumerate(zip(paths, digested, strict=True)):
        if not path.exists():
            missing[fold] = "not trained"
        elif file is None:
            missing[fold] = "damaged"
        elif read_fold(folders[fold], fold) is None:
            missing[fold] = "not finished"
        else:
            files.append(file)
    if not files:
        reasons = ", ".join(f"fold {fold} {why}" for fold, why in missing.items())
        raise InputError(f"{place} has no finished fold ({reasons}): go on with resume={place}")
    return files, missing
