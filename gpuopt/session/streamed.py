"""Predictions that lie on disk: what is left to do is to name them and to write them out."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpuopt.errors import InputError
from gpuopt.measure import apply_temperature
from gpuopt.session.part_files import PartFiles, going_on_later
from gpuopt.storage import IntactFile

if TYPE_CHECKING:  # importing it takes seconds
    from gpuopt.model import ImageNetwork

__all__ = ["Forwards", "StreamOptions", "StreamedPredictions"]


class Forwards(Protocol):
    """What is called in place of models, such as engines."""

    def knows(self, file: IntactFile) -> bool:
        """Say whether a checkpoint's need not be built anew, as far as that is known."""

    def reopen(self, files: Sequence[IntactFile]) -> list[Callable[[Tensor], Tensor] | None]:
        """Return what is called for checkpoints, without models; None where one is needed."""

    def forward_of(self, model: "ImageNetwork", file: IntactFile) -> Callable[[Tensor], Tensor]:
        """Return what is called in place of the model of a checkpoint, which is on its device."""


class _Models:
    """The models themselves."""

    def knows(self, file: IntactFile) -> bool:
        """Say no: a model is built."""
        return False

    def reopen(self, files: Sequence[IntactFile]) -> list[Callable[[Tensor], Tensor] | None]:
        """Return nothing: models are built."""
        return [None for _ in files]

    def forward_of(self, model: "ImageNetwork", file: IntactFile) -> Callable[[Tensor], Tensor]:
        """Return the model."""
        return model


@dataclass(frozen=True)
class StreamOptions:
    """How predictions come to lie on disk.

    Attributes:
        resumes: Go on with the parts that are there; else there may be none.
        cache_dir: Folder of decoded images; None means the user's cache folder.
        show_progress: Draw bars.
        forwards: What is called in place of models, such as engines.
        finish: Changes the mean probabilities of a batch, see `LastPass`.
        identity: What `forwards` and `finish` depend on, in plain values, without which a
            prediction is not gone on with.
    """

    resumes: bool = False
    cache_dir: str | None = None
    show_progress: bool = False
    forwards: Forwards = field(default_factory=_Models)
    finish: Callable[[Tensor], Tensor] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    def calibrated(self, temperature: float) -> "StreamOptions":
        """Calibrate what is finished, after views and models are merged."""

        def finish(probabilities: Tensor) -> Tensor:
            merged = probabilities if self.finish is None else self.finish(probabilities)
            return torch.from_numpy(apply_temperature(merged.numpy(), temperature))

        return replace(self, finish=finish, identity={**self.identity, "temperature": temperature})


@dataclass(frozen=True, eq=False)
class StreamedPredictions:
    """What was predicted, one row per image in order; probabilities are read when asked for.

    Attributes:
        ids: Name of each image.
        targets: Its class, int64 [n]; -1 where unknown.
        classes: The most probable class, int64 [n].
        rejected: Files that were left out, with the reason.
        chunk_size: Images per forward pass in the end.
    """

    ids: Sequence[str]
    targets: NDArray[np.int64]
    classes: NDArray[np.int64]
    rejected: list[str]
    chunk_size: int | None
    _parts: PartFiles
    _output: Path

    @classmethod
    def of(
        cls, parts: PartFiles, names: Sequence[str], rejected: list[str], output: Path
    ) -> "StreamedPredictions":
        """Look through the complete file of the last pass.

        Args:
            parts: The files; they stay open until they are removed.
            names: Name of each row of the split.
            rejected: Files that were left out.
            output: What the parts will become.

        Raises:
            InputError: When nothing was predicted, or the file is damaged.
        """
        blocks = [
            (block.ids, block.targets, block.probabilities.argmax(axis=1))
            for block in parts.file.blocks()
            if len(block.ids)
        ]
        if not blocks:
            raise InputError("there is nothing to predict: the data holds no readable image")
        ids, targets, classes = (np.concatenate(column) for column in zip(*blocks, strict=True))
        return cls(
            [names[row] for row in ids],
            targets,
            classes,
            rejected,
            parts.file.chunk_size,
            parts,
            output,
        )

    def rows(self) -> Iterator[tuple[str, int, NDArray[np.float32]]]:
        """Read name, class and probabilities [classes] of one image after another."""
        names = iter(self.ids)
        for block in self._parts.file.blocks():
            for target, probabilities in zip(block.targets, block.probabilities, strict=True):
                yield next(names), int(target), probabilities

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Remove the parts when the block has written the output; else keep and close them.

        Raises:
            PreemptedError: When asked to stop meanwhile.
        """
        with going_on_later(self._parts, self._output, len(self.ids)):
            yield
            self._parts.remove()
