"""Turn a Trainer's counters back to the start of the running accumulation window."""

import lightning.pytorch as L

from gpuopt.callbacks.accumulation_window import first_batch_of_window, go_back_to_start

__all__ = ["go_to_window_start"]


def go_to_window_start(trainer: L.Trainer) -> None:
    """Count as if the step before had just ended, so that a checkpoint repeats the present one.

    Lightning writes most checkpoints in `on_train_batch_end`, where `completed` and the steps of
    loggers lag by one, and corrects that when it resumes. Use it only before the run ends.
    """
    loop = trainer.fit_loop.epoch_loop
    progress = loop.batch_progress
    start = first_batch_of_window(trainer)
    lag = 1 if start else 0
    back = progress.current.ready - start
    for counts in (progress.current, progress.total):
        ready = counts.ready - back
        for name in ("ready", "started", "processed"):
            setattr(counts, name, ready)
        counts.completed = ready - lag
    loop._batches_that_stepped -= 1
    progress.is_last_batch = False
    go_back_to_start(trainer)
