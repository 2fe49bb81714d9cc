"""The files beside an output that an interrupted prediction goes on from."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.storage import Journal, part_file
from gpuopt.tta import PredictionFile

__all__ = ["PartFiles", "going_on_later"]

_SCHEMA = 1
_MOST = 20  # passes, as there may be so many folds
# Digests say nothing to a person.
_IN_WORDS = {
    "images": "other images, or other names, sizes or times of their files",
    "weights": "other weights",
    "code": "another version of gpuopt",
}


class PartFiles:
    """One file per pass of a prediction: the one that grows, and the complete one before it.

    Args:
        output: The file that the prediction will become.
        identity: What must be the same for a prediction to be gone on with.
        passes: Number of passes.
        batches: Number of batches of each.
        resumes: Whether to go on with what is there; else nothing may be there.

    Attributes:
        number: The pass that is gone on with, from 0.
        file: Its file.
        earlier: The file of the pass before; None in the first.

    Raises:
        InputError: When what is there belongs to another prediction, or is damaged, or another
            process writes it.
        FaultError: When the disk is full.
        OSError: When the files cannot be read.
    """

    def __init__(
        self,
        output: Path,
        identity: Mapping[str, Any],
        *,
        passes: int,
        batches: int,
        resumes: bool,
    ) -> None:
        self._output = output
        self._header = {"schema": _SCHEMA, **identity}
        self._passes = passes
        self._batches = batches
        self.earlier: PredictionFile | None = None
        there = [number for number in range(_MOST) if _is_begun(part_file(output, number))]
        if there and not resumes:
            raise InputError(
                f"{part_file(output, there[0])} is of a prediction that was cut short: resume=true "
                "goes on with it; delete it to begin anew"
            )
        self.number = max(there, default=0)
        self.file = self._open(self.number) if there else self._begin(0)
        if self.number and not self.is_complete:
            try:
                self.earlier = self._open_earlier()
            except BaseException:
                self.file.close()
                raise
        self._remove_before(self.number - 1)

    @property
    def samples(self) -> int:
        """Samples of the present pass that are in its file."""
        return self.file.samples

    @property
    def is_last(self) -> bool:
        """Whether this is the last pass."""
        return self.number == self._passes - 1

    @property
    def is_complete(self) -> bool:
        """Whether the present pass has seen all batches."""
        return self._is_complete(self.file)

    @property
    def has_begun(self) -> bool:
        """Whether any batch is done."""
        return bool(self.number or self.file.batches)

    def progress(self, images: int) -> str:
        """Say how many images are done, of those of each pass."""
        of_pass = f" of pass {self.number + 1}" if self.number else ""
        return f"{self.samples} of {images} images{of_pass}"

    def next_pass(self) -> None:
        """Begin the next pass, which needs the present one's file and no earlier one.

        Raises:
            FaultError: When the disk is full; the present pass is kept.
        """
        # Before any is removed: whatever happens in between, a complete one can be gone on from.
        later = self._begin(self.number + 1)
        if self.earlier is not None:
            self.earlier.close()
        self.earlier, self.file, self.number = self.file, later, self.number + 1
        self._remove_before(self.number - 1)

    def close(self) -> None:
        """Let others open the files; one that holds nothing is removed."""
        for file in (self.file, self.earlier):
            if file is not None:
                file.close()
        if not self.has_begun:
            part_file(self._output, 0).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the files, once the output is there."""
        self.close()
        for number in range(self._passes):
            part_file(self._output, number).unlink(missing_ok=True)

    def _begin(self, number: int) -> PredictionFile:
        path = part_file(self._output, number)
        try:
            return PredictionFile(path, self._header)
        except OSError as error:
            raise FaultError(f"{path} cannot be written ({error.strerror}): free space") from error

    def _remove_before(self, number: int) -> None:
        """Remove what no pass needs any more."""
        for earlier in range(number):
            part_file(self._output, earlier).unlink(missing_ok=True)

    def _open(self, number: int) -> PredictionFile:
        path = part_file(self._output, number)
        file = PredictionFile(path)
        if changed := _differences(file.header, self._header):
            file.close()
            raise InputError(
                f"{path} was begun otherwise ({'; '.join(changed)}): give the same settings, or "
                "delete it to begin anew"
            )
        return file

    def _open_earlier(self) -> PredictionFile:
        path, file = part_file(self._output, self.number - 1), None
        if path.exists():
            file = self._open(self.number - 1)
            if self._is_complete(file):
                return file
            file.close()
        raise InputError(
            f"{path}, which {part_file(self._output, self.number)} goes on from, is not whole: "
            "delete both to begin anew"
        )

    def _is_complete(self, file: PredictionFile) -> bool:
        return file.batches == self._batches


@contextlib.contextmanager
def going_on_later(parts: PartFiles, output: Path, images: int) -> Iterator[None]:
    """Close the files when a prediction is cut short, and say how to go on with what is there.

    Args:
        parts: The files.
        output: What they will become.
        images: Number of images of each pass.

    Raises:
        PreemptedError: In place of `KeyboardInterrupt`, once a batch is done.
        FaultError: In place of one that does not say so.
    """
    try:
        yield
    except BaseException as error:
        parts.close()
        is_begun, done = parts.has_begun, parts.progress(images)
        how = f"the same command with resume={output.parent} goes on"
        if isinstance(error, KeyboardInterrupt) and is_begun:
            reason = str(error) or "Ctrl-C"
            raise PreemptedError(f"stopped by {reason} after {done}: {how}") from error
        if isinstance(error, FaultError) and is_begun:
            raise FaultError(f"{error}; {done} are kept: {how}") from error
        raise


def _is_begun(path: Path) -> bool:
    return path.exists() and Journal.is_begun(path)


def _differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what differs, with both values where they say something to a person."""
    return [
        _IN_WORDS.get(key) or f"{key}: {stored.get(key)} -> {now.get(key)}"
        for key in sorted(stored.keys() | now.keys())
        if stored.get(key) != now.get(key)
    ]
