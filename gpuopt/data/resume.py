"""Where in its epoch a restored Trainer has to go on, to the micro-batch.

Lightning restores its counters and tells the sampler the epoch, but starts its loaders at the
first sample. So the position is read from the counters before the loader is made. `ready` counts
the batches that a checkpoint contains; `completed` lags by one when it was written in
`on_train_batch_end`.
"""

import lightning.pytorch as L

from gpuopt.errors import InputError

__all__ = ["resume_batch"]


def resume_batch(
    trainer: L.Trainer, saved_per_window: int | None, per_window: int, length: int
) -> int:
    """Find the micro-batch of the epoch at which training goes on.

    A checkpoint lies on an optimizer step. When a window is now cut into another number of
    micro-batches, Lightning's counters of the running epoch are put into the new unit.

    Args:
        trainer: Fresh, or with its loops restored.
        saved_per_window: Micro-batches per global window when the checkpoint was written; None
            when it is unknown and taken to be the same.
        per_window: Micro-batches per global window now.
        length: Micro-batches of a whole epoch now.

    Raises:
        InputError: When the checkpoint lies inside a window and the unit has changed.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress
    if saved_per_window is not None and saved_per_window != per_window:
        ready = batches.current.ready
        there = length if batches.is_last_batch else _in_unit(ready, saved_per_window, per_window)
        for name in ("ready", "started", "processed", "completed"):
            setattr(batches.current, name, getattr(batches.current, name) + there - ready)
    return 0 if batches.is_last_batch else int(batches.current.ready)


def _in_unit(batches: int, saved_per_window: int, per_window: int) -> int:
    windows, rest = divmod(batches, saved_per_window)
    if rest:
        raise InputError(
            f"the checkpoint lies inside an optimizer step ({rest} of {saved_per_window} "
            "micro-batches): resume with the micro_batch_size and devices that it was made with"
        )
    return windows * per_window
