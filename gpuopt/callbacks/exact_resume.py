"""Carry the random number generators through a checkpoint, so that a resumed run is the same run.

The data's order and augmentation need no state: they follow from (seed, epoch, index). What is
left are the library generators, which dropout and stochastic depth draw from.
"""

import random
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch

__all__ = ["ExactResume"]


class ExactResume(L.Callback):
    """Saves the states of Python's, NumPy's and PyTorch's generators and restores them.

    They are restored in the first `on_train_batch_start`: everything before it, such as building
    the model, may draw numbers. Values are tensors and lists, which `weights_only=True` loads.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of this process's generators, or those of all ranks.

        Every rank has to save, as they do in `Trainer.save_checkpoint`.
        """
        own = _read_generators()
        _, world_size = _place()
        if world_size == 1:
            return own
        states: list[dict[str, Any]] = [{}] * world_size
        torch.distributed.all_gather_object(states, own)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first batch."""
        self._pending = state_dict

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the generators before the first resumed batch."""
        if self._pending is None:
            return
        state, self._pending = self._pending, None
        states = state.get("ranks", [state])
        rank, world_size = _place()
        if len(states) == world_size:  # else no rank has a state of its own
            _write_generators(states[rank])


def _place() -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _read_generators() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, cached = numpy_state
    return {
        "python": [version, list(words), gauss],
        "numpy": [
            str(kind),
            [int(k) for k in keys],
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        # Of this process's device alone: asking the others would open a context on each.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def _write_generators(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
