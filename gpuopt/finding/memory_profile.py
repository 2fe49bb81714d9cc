"""Write what takes the memory of a step as JSON, with the snapshot of the allocator."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuopt.errors import InputError
from gpuopt.finding.answer import FindAnswer
from gpuopt.storage import create_text

__all__ = ["require_new", "write_profile"]

_SCHEMA = 1


def require_new(path: Path) -> Path:
    """Return the path if a new file can lie there.

    Raises:
        InputError: When it exists or its folder does not.
    """
    if path.exists():
        raise InputError(f"memory_profile={path} exists: move it away, or name another file")
    if not path.parent.is_dir():
        raise InputError(f"memory_profile={path}: the folder {path.parent} does not exist")
    return path


def write_profile(path: Path, answer: FindAnswer, snapshots: Sequence[Mapping[str, Any]]) -> None:
    """Write a new file.

    Args:
        path: Does not exist.
        answer: What was found; sizes are written in bytes.
        snapshots: Of each card: the allocator's segments at the chosen batch, or `absent` with
            the reason.

    Raises:
        InputError: When the file cannot be written, or exists by now.
    """
    cards = [
        {
            "card": card.card,
            "device_index": card.device_index,
            "evidence": card.evidence,
            "batch_size": card.chosen,
            "precision": card.precision,
            "context_bytes": card.context_bytes,
            "free_bytes": card.free_bytes,
            "budget_bytes": card.budget_bytes,
            "predicted_parts_bytes": dict(card.parts),
            "probes": card.as_dict()["probes"],
            "allocator_snapshot": dict(snapshot),
        }
        for card, snapshot in zip(answer.cards, snapshots, strict=True)
    ]
    content = {
        "schema": _SCHEMA,
        "model": answer.model_name,
        "image_size": answer.image_size,
        "purpose": answer.purpose,
        "checkpointing": answer.checkpointing,
        "cards": cards,
    }
    try:
        create_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except FileExistsError as error:
        raise InputError(f"memory_profile={path} exists: name another file") from error
    except OSError as error:
        raise InputError(
            f"memory_profile={path} cannot be written ({error.strerror}): name another file"
        ) from error
