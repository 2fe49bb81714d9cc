"""Lightning's way to `write_checkpoint` and `read_checkpoint`."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from gpuopt.storage.checkpoint import read_checkpoint, write_checkpoint
from gpuopt.storage.sidecar import Sidecar

__all__ = ["DurableCheckpointIO"]


class DurableCheckpointIO(CheckpointIO):
    """Writes and reads checkpoints in any Trainer, as one of its plugins."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint; see `write_checkpoint`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; `weights_only` is always on, whatever is asked for."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint and its sidecar."""
        Path(path).unlink(missing_ok=True)
        Sidecar(Path(path)).path.unlink(missing_ok=True)
