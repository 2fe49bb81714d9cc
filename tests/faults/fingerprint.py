"""What must be the same to the bit in two runs, as one number each."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from gpuopt.storage.checkpoint import read_checkpoint

__all__ = ["fingerprint"]

_TABLES = ("predictions.csv", "out_of_fold.csv")


def fingerprint(folder: Path) -> dict[str, str]:
    """Digest the weights, optimizer states and predictions of a run and of each of its folds."""
    found = {}
    for path in sorted(folder.rglob("last.ckpt")):
        checkpoint = read_checkpoint(path)
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            digest = hashlib.sha256()
            _feed(digest, checkpoint[key])
            found[f"{path.relative_to(folder)}: {key}"] = digest.hexdigest()
    for name in _TABLES:
        for path in sorted(folder.rglob(name)):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in value:
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())
