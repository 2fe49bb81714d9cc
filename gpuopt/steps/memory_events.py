"""What happened to a run's memory: one entry for results, and scalars for the loggers, of each."""

from typing import Any

import lightning.pytorch as L

from gpuopt.steps.event_file import drop_events, read_events, write_events
from gpuopt.steps.step_count import steps_done

__all__ = ["MemoryEvents"]

_COUNTED = ("out_of_memory", "thrash")
_OUTSIDE_OF_STEPS = ("validation", "test", "prediction")


class MemoryEvents:
    """The events of one run, in order, as plain values.

    Ranks that train together keep them in files as well (see `gpuopt.steps.event_file`); none
    waits for another.

    Attributes:
        entries: Those of this rank.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def begin(self, trainer: L.Trainer, *, is_resumed: bool) -> None:
        """Go on with what this rank has written before, or leave nothing of an earlier run.

        Args:
            trainer: At the start of training, its counts those of the checkpoint.
            is_resumed: Whether there was one.
        """
        if trainer.world_size == 1:
            return
        if not is_resumed:
            drop_events(trainer)
            return
        # What came after the checkpoint is going to be done, and noted, again.
        written = read_events(trainer, trainer.global_rank)
        if written is not None:
            self.entries[:] = [event for event in written if _is_done(event, trainer.global_step)]
        if written or self.entries:
            write_events(trainer, self.entries)

    def of_all_ranks(self, trainer: L.Trainer) -> list[dict[str, Any]]:
        """Return the events of all ranks as far as they are written, by step."""
        others = (rank for rank in range(trainer.world_size) if rank != trainer.global_rank)
        found = [event for rank in others for event in read_events(trainer, rank) or ()]
        return sorted([*self.entries, *found], key=lambda event: event["step"])

    def note(
        self, trainer: L.Trainer, kind: str, phase: str, samples: int, size: int, **more: float
    ) -> None:
        """Write an event down and send it to the loggers.

        Args:
            trainer: At the step of the event.
            kind: `out_of_memory`, `thrash`, `grow`, `adapt` or `give_up`.
            phase: Where it happened.
            samples: Samples at a time before it.
            size: Samples at a time after it.
            more: Numbers about it, which are logged as well.
        """
        step = steps_done(trainer)
        entry = {
            "event": kind,
            "phase": phase,
            "epoch": trainer.current_epoch,
            "step": step,
            "samples": samples,
            "micro_batch_size": size,
            **more,
        }
        if trainer.world_size > 1:
            entry["rank"] = trainer.global_rank
        self.entries.append(entry)
        if trainer.world_size > 1:
            write_events(trainer, self.entries)
        values = {"memory/micro_batch_size": float(size)}
        values |= {f"memory/{name}": float(value) for name, value in more.items()}
        for counted in _COUNTED:
            number = sum(event["event"] == counted for event in self.entries)
            if number or counted == "out_of_memory":
                values[f"memory/{counted}"] = float(number)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)

    def log_others(self, trainer: L.Trainer) -> None:
        """Send the other ranks' events to the loggers, of which only the first rank's write."""
        if trainer.world_size == 1 or not trainer.is_global_zero:
            return
        # Events of the time when the run had one process carry no rank; they were logged then.
        everybody = self.of_all_ranks(trainer)
        for event in (e for e in everybody if e.get("rank", 0) != trainer.global_rank):
            values = {f"memory/rank{event['rank']}/micro_batch_size": event["micro_batch_size"]}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=event["step"])


def _is_done(event: dict[str, Any], step: int) -> bool:
    """Tell whether an event lies before a checkpoint of a step, or ended the run that made it."""
    is_before = event["step"] < step or (
        event["step"] == step and event["phase"] in _OUTSIDE_OF_STEPS
    )
    return is_before or event["event"] == "give_up"
