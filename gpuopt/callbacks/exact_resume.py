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
        """Return the states of all generators of this process."""
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
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

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
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        kind, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state["torch"])
        if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
