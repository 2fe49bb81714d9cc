"""Optimizer steps as Lightning's loggers count them."""

import lightning.pytorch as L

__all__ = ["ends_step", "is_logged", "steps_done"]


def steps_done(trainer: L.Trainer) -> int:
    """Count the batches that ended a step, the current one not yet among them.

    Unlike `trainer.global_step` it counts the steps of several optimizers once. It is the step
    axis of everything that Lightning logs, and its checkpoints hold it.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def ends_step(trainer: L.Trainer) -> bool:
    """Tell in `on_train_batch_end` whether the batch was the last one of its step."""
    return not trainer.fit_loop._should_accumulate()


def is_logged(trainer: L.Trainer, step: int) -> bool:
    """Tell whether the Trainer logs a step, counted from 0."""
    # An attribute that Lightning sets from another object, where type checkers miss it.
    every = int(getattr(trainer, "log_every_n_steps", 1))
    return every > 0 and (step + 1) % every == 0
