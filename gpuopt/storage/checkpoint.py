"""Checkpoints that survive a crash, a full disk and a stranger.

A checkpoint is written to a temporary file in its own folder, synced and renamed; its sidecar
holds size and checksum; the one before is kept as `previous.ckpt`. Reading uses
`weights_only=True` always, and refuses what could run code.
"""

import hashlib
import io
import logging
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from gpuopt.errors import FaultError, InputError
from gpuopt.storage.atomic import atomic_write, sync_folder
from gpuopt.storage.sidecar import FileRecord, IntactFile, Sidecar

__all__ = [
    "damaged",
    "link_copy",
    "newest_valid",
    "read_checkpoint",
    "valid_ones",
    "write_checkpoint",
]

_log = logging.getLogger(__name__)

# Set in the environment, this makes torch.load ignore weights_only=True.
_UNSAFE_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# Lightning once imported and called what stood under this key (CVE-2026-58659).
_HOSTILE_KEY = "_instantiator"
_looked_through: set[Path] = set()  # files that this process has written


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Replace a checkpoint; what it held stays beside it as `previous.ckpt`.

    At every moment each file matches its sidecar, so a crash at any point leaves a valid one.

    Args:
        checkpoint: Lightning's dictionary; its values must load with `weights_only=True`.
        path: For example `<run>/checkpoints/last.ckpt`.

    Raises:
        FaultError: When weights are not finite: they would spoil every later run.
        OSError: When the disk is full; the old file is untouched.
    """
    _require_finite(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Serialised in memory first: torch's zip writer aborts the process when a write fails half-way.
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    buffer.seek(0)
    _warn_of_code(buffer, path)
    content = buffer.getbuffer()
    staged = path.with_name(f".{path.name}.new")
    with atomic_write(staged) as stream:
        stream.write(content)
    record = FileRecord(
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        step=int(checkpoint.get("global_step", 0)),
        epoch=int(checkpoint.get("epoch", 0)),
    )
    old = Sidecar(path).match()
    if old is not None:  # a damaged file must not take the place of the good one before it
        link_copy(path, old, path.with_name("previous.ckpt"))
    Sidecar(path).vouch(record, *([old] if old else []))
    staged.replace(path)
    sync_folder(path.parent)


def link_copy(source: Path, record: FileRecord, target: Path) -> None:
    """Make `target` a second name of a checkpoint's content, replacing it in one step.

    The target's sidecar vouches for the new and the old content before the name changes.

    Args:
        source: The checkpoint.
        record: What it holds.
        target: Another name in the same folder.

    Raises:
        OSError: When the folder cannot be written; the old target is untouched.
    """
    sidecar = Sidecar(target)
    present = sidecar.match()
    sidecar.vouch(record, *([present] if present else []))
    temporary = target.with_name(f".{target.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        with atomic_write(temporary) as stream, source.open("rb") as content:
            while block := content.read(1 << 20):
                stream.write(block)
    temporary.replace(target)
    sync_folder(target.parent)


def read_checkpoint(path: Path, *, intact: IntactFile | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running anything that it contains.

    Args:
        path: A `.ckpt` file, from gpuopt or any other source.
        intact: Of a file that was compared with its sidecar: where it has not changed since, it is
            not digested again, and its tensors are mapped. Only what is copied from them is read,
            such as weights beside the state of an optimizer.

    Raises:
        InputError: When it is missing, damaged, or holds more than tensors and plain values.
    """
    if os.environ.get(_UNSAFE_VARIABLE):
        raise InputError(f"{_UNSAFE_VARIABLE} is set: unset it, it lets checkpoints run code")
    if not path.is_file():
        raise InputError(f"{path} is not a checkpoint file: no such file")
    sidecar = Sidecar(path)
    is_known = intact is not None and intact.is_unchanged(path)
    if not is_known and sidecar.records() and sidecar.match() is None:
        raise damaged(path)
    try:
        with warnings.catch_warnings():  # what is odd about a file is said in one line of ours
            warnings.simplefilter("ignore")
            checkpoint = torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=is_known and zipfile.is_zipfile(path),
            )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it holds objects that would run code when loaded, or is damaged"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    if _holds_key(checkpoint, _HOSTILE_KEY):
        raise InputError(f"{path} is refused: it asks to call code ({_HOSTILE_KEY})")
    return checkpoint


def damaged(path: Path) -> InputError:
    """Word that a file is not what its sidecar tells."""
    name = Sidecar(path).path.name
    return InputError(f"{path} is damaged: size or checksum differ from {name}")


def newest_valid(folder: Path) -> tuple[Path, FileRecord] | None:
    """Find the intact file with the most optimizer steps, and its record; see `valid_ones`."""
    return next(iter(valid_ones(folder)), None)


def valid_ones(folder: Path) -> list[tuple[Path, FileRecord]]:
    """List the checkpoints to resume from that match their checksums.

    Args:
        folder: `<run>/checkpoints`.

    Returns:
        Files and their records, the most optimizer steps first.
    """
    found: list[tuple[Path, FileRecord]] = []
    for path in sorted(folder.glob("*.ckpt")):
        if path.name == "best.ckpt":
            continue  # never newer than the last one
        record = Sidecar(path).match()
        if record is None:
            _log.warning("%s is damaged and not used", path.name)
        else:
            found.append((path, record))
    return sorted(found, key=lambda item: (item[1].step, item[1].epoch), reverse=True)


def _require_finite(checkpoint: dict[str, Any]) -> None:
    state = checkpoint.get("state_dict", {})
    tensors = [v for v in state.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    flags = [torch.isfinite(tensor).all() for tensor in tensors]
    if flags and not bool(torch.stack(flags).all()):
        spoilt = [tensor for tensor, flag in zip(tensors, flags, strict=True) if not bool(flag)]
        if all(map(_is_mask, spoilt)):
            return
        raise FaultError(
            "the weights are not finite (NaN or infinity) and were not saved: lower "
            "model.learning_rate or train with precision=fp32"
        )


def _is_mask(tensor: torch.Tensor) -> bool:
    """Tell what adds 0 or minus infinity to scores of attention, and is meant so."""
    return bool(((tensor == 0) | (tensor == -torch.inf)).all()) and bool((tensor == 0).any())


def _warn_of_code(content: IO[bytes], path: Path) -> None:
    """Say at the first save of a file what a resume would refuse; hours lie between them."""
    if path in _looked_through:
        return
    _looked_through.add(path)
    if found := torch.serialization.get_unsafe_globals_in_checkpoint(content):
        _log.warning(
            "%s cannot be resumed from: it holds %s, and reading that could run code; keep it out "
            "of the checkpoint (save_hyperparameters(ignore=...)), or allow it with "
            "torch.serialization.add_safe_globals",
            path.name,
            ", ".join(found[:3]),
        )


def _holds_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_holds_key(item, key) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_key(item, key) for item in value)
    return False
