"""The files that a run leaves when not a single sample fits: who holds the memory."""

import logging
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from gpuopt.memory.meter import MemoryMeter
from gpuopt.memory.usage import MemoryUsage, measure_usage
from gpuopt.storage import atomic_write, write_json

__all__ = ["unused_path", "write_memory_report"]

_log = logging.getLogger(__name__)


def write_memory_report(
    trainer: L.Trainer,
    meter: MemoryMeter | None,
    facts: dict[str, Any],
    *,
    activations_per_sample: float | None = None,
) -> Path | None:
    """Log the memory table, and write it and the allocator's snapshot into the Trainer's folder.

    `out_of_memory.json` holds the table; `memory_snapshot.pickle` opens in
    https://pytorch.org/memory_viz. Further ones get a number, those of other ranks their rank.

    Args:
        trainer: Its module, optimizers and `default_root_dir` count.
        meter: Reads the device, or None.
        facts: About the failure; written beside the table.
        activations_per_sample: Bytes, if known.

    Returns:
        The path of the table; None when it could not be written.
    """
    usage = measure_usage(
        trainer.lightning_module,
        trainer.optimizers,
        meter,
        activations_per_sample=activations_per_sample,
    )
    _log.warning("memory when training gave up:\n%s", usage.table())
    folder = Path(trainer.default_root_dir)
    rank = f".rank{trainer.global_rank}" if trainer.world_size > 1 else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        snapshot = _write_snapshot(meter, folder / f"memory_snapshot{rank}.pickle")
        return _write_table(usage, facts, snapshot, folder / f"out_of_memory{rank}.json")
    except OSError as error:  # must not hide what came first
        _log.warning("the memory table cannot be written to %s (%s)", folder, error.strerror)
        return None


def unused_path(path: Path) -> Path:
    """Return the path, with a number when there is such a file."""
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        number += 1
    return candidate


def _write_table(usage: MemoryUsage, facts: dict[str, Any], snapshot: str | None, to: Path) -> Path:
    to = unused_path(to)
    write_json(to, {"schema": 1, **facts, "memory": usage.as_dict(), "snapshot": snapshot})
    return to


def _write_snapshot(meter: MemoryMeter | None, to: Path) -> str | None:
    content = None if meter is None else meter.snapshot()
    if content is None:
        _log.warning("there is no snapshot of the allocator: only a CUDA device's can be taken")
        return None
    to = unused_path(to)
    with atomic_write(to) as stream:
        pickle.dump(content, stream)
    return to.name
