"""What happened to a run's memory: one entry for results, and scalars for the loggers, of each."""

from typing import Any

import lightning.pytorch as L
import torch

from gpuopt.callbacks.step_count import steps_done

__all__ = ["MemoryEvents"]

_COUNTED = ("out_of_memory", "thrash")


class MemoryEvents:
    """The events of one run, in order, as plain values.

    Attributes:
        entries: Those of this rank; after `gather` those of all ranks.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

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
        values = {"memory/micro_batch_size": float(size)}
        values |= {f"memory/{name}": float(value) for name, value in more.items()}
        for counted in _COUNTED:
            number = sum(event["event"] == counted for event in self.entries)
            if number or counted == "out_of_memory":
                values[f"memory/{counted}"] = float(number)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)

    def gather(self, trainer: L.Trainer) -> None:
        """Let the first rank, which alone writes, know what happened on the others.

        Every rank must call it, at the end of training.
        """
        if trainer.world_size == 1:
            return
        everyone: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(everyone, self.entries)
        self.entries[:] = sorted(
            (event for entries in everyone for event in entries), key=lambda event: event["step"]
        )
        others = [e for e in self.entries if e.get("rank", 0) != trainer.global_rank]
        for event in others:
            values = {f"memory/rank{event['rank']}/micro_batch_size": event["micro_batch_size"]}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=event["step"])
