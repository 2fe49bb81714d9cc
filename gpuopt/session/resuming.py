"""Which checkpoint a run goes on with."""

import logging
from pathlib import Path

from gpuopt.errors import InputError
from gpuopt.model import Classifier
from gpuopt.session.weights import require_weights_of
from gpuopt.storage import FileRecord
from gpuopt.storage.checkpoint import read_checkpoint, valid_ones

__all__ = ["checkpoint_to_resume"]

_log = logging.getLogger(__name__)


def checkpoint_to_resume(
    folder: Path, model: Classifier, max_epochs: int
) -> tuple[Path, FileRecord] | None:
    """Find the newest checkpoint that is intact and harmless, and see that it is the model's.

    Args:
        folder: `<run>/checkpoints`.
        model: As the configuration builds it.
        max_epochs: Asked for.

    Returns:
        The file and its record, or None when the run has saved nothing yet.

    Raises:
        InputError: When none can be used, its weights are another model's, or the run has come
            further than it is asked to, which Lightning cannot go back to.
    """
    for path, record in valid_ones(folder):
        try:
            checkpoint = read_checkpoint(path)
        except InputError as error:  # its checksum is right, and still it is not one of ours
            _log.warning("%s; it is not used", error)
            continue
        require_weights_of(model, checkpoint, str(path))
        if max_epochs < record.epoch:  # which counts from 0
            raise InputError(
                f"trainer.max_epochs={max_epochs}: the run has come to epoch {record.epoch + 1}; "
                "give at least as many, or start a new run"
            )
        return path, record
    if any(folder.glob("*.ckpt")):
        raise InputError(f"no checkpoint in {folder} is intact: start a new run")
    return None
