"""Each rank's memory events in a file of its own, so that none has to ask another for them.

A checkpoint holds what its writer, the first rank, knows. The others' events lie beside it, in
`memory_events.rankN.json` in the Trainer's folder, which ranks on several machines have to share.
A process that trains alone writes none.
"""

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from gpuopt.storage import write_json

__all__ = ["drop_events", "read_events", "write_events"]

_log = logging.getLogger(__name__)

_SCHEMA = 1
_NEEDED = {"event", "epoch", "step", "samples", "micro_batch_size"}


def write_events(trainer: L.Trainer, entries: list[dict[str, Any]]) -> bool:
    """Write this rank's events; a full disk costs the file, not the training.

    Returns:
        Whether it was written.
    """
    path = _path(trainer, trainer.global_rank)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": _SCHEMA, "rank": trainer.global_rank, "events": entries})
    except OSError as error:
        _log.warning("memory events cannot be written to %s (%s)", path, error.strerror)
        return False
    return True


def read_events(trainer: L.Trainer, rank: int) -> list[dict[str, Any]] | None:
    """Read a rank's events; None where it has written none, or not of this kind."""
    try:
        content = json.loads(_path(trainer, rank).read_text("utf-8"))
        if content["schema"] != _SCHEMA or content["rank"] != rank:
            return None
        events = [dict(event) for event in content["events"] if event["rank"] == rank]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return events if all(event.keys() >= _NEEDED for event in events) else None


def drop_events(trainer: L.Trainer) -> None:
    """Remove what this rank wrote in another run, for which the folder was used before."""
    if read_events(trainer, trainer.global_rank) is None:  # not ours
        return
    try:
        _path(trainer, trainer.global_rank).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("old memory events cannot be removed (%s)", error.strerror)


def _path(trainer: L.Trainer, rank: int) -> Path:
    return Path(trainer.default_root_dir) / f"memory_events.rank{rank}.json"
