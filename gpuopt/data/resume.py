"""Where a restored Trainer has to go on, to the micro-batch.

Lightning restores its counters but starts its loaders at the first sample, so the position is read
from the counters before the loader is made. `ready` counts the batches that a checkpoint contains;
`completed` lags by one when it was written in `on_train_batch_end`.
"""

from typing import Any

import lightning.pytorch as L

from gpuopt.errors import InputError

__all__ = ["resume_position"]


def resume_position(
    trainer: L.Trainer, saved_per_window: int | None, per_window: int, length: int
) -> tuple[int, int]:
    """Find epoch and micro-batch at which training goes on.

    A checkpoint lies on an optimizer step. When a window is now cut into another number of
    micro-batches, Lightning's counters of the running epoch are put into the new unit.

    Args:
        trainer: Fresh, or with its loops restored.
        saved_per_window: Micro-batches per global window when the checkpoint was written; None
            when it is unknown and taken to be the same.
        per_window: Micro-batches per global window now.
        length: Micro-batches of a whole epoch now.

    Returns:
        The epoch for the sampler and the micro-batch in it.

    Raises:
        InputError: When the checkpoint lies inside a window and the unit has changed.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress
    if saved_per_window is not None and saved_per_window != per_window:
        ready = batches.current.ready
        there = length if batches.is_last_batch else _in_unit(ready, saved_per_window, per_window)
        for name in ("ready", "started", "processed", "completed"):
            setattr(batches.current, name, getattr(batches.current, name) + there - ready)
    if batches.is_last_batch or batches.current.ready >= length:
        # Everything of that epoch was seen, but the epoch itself may not have been counted yet.
        return epochs.processed + int(epochs.processed < epochs.ready), 0
    return epochs.processed, batches.current.ready


def _in_unit(batches: int, saved_per_window: int, per_window: int) -> int:
    windows, rest = divmod(batches, saved_per_window)
    if rest:
        raise InputError(
            f"the checkpoint lies inside an optimizer step ({rest} of {saved_per_window} "
            "micro-batches): resume with the micro_batch_size and devices that it was made with"
        )
    return windows * per_window
