"""How a run ends that cannot go on for want of memory: saved where that is exact, and explained."""

from pathlib import Path

import lightning.pytorch as L

from gpuopt.callbacks.durable_checkpoint import DurableCheckpoint
from gpuopt.errors import FaultError
from gpuopt.steps.memory_report import unused_path
from gpuopt.steps.trainer_parts import callbacks_of
from gpuopt.steps.window_start import go_to_window_start

__all__ = ["UNSAVED", "save_step_start"]

UNSAVED = "the last checkpoint stands"


def save_step_start(trainer: L.Trainer) -> str:
    """Save the state before the step under way, from which a resume repeats it.

    Only for a process that is alone: ranks would have to save together, and the others are busy.

    Args:
        trainer: Its module's buffers and generators are those of the start of the step.

    Returns:
        In words, where it is or why it is not.
    """
    go_to_window_start(trainer)
    try:
        for callback in callbacks_of(trainer):
            if isinstance(callback, DurableCheckpoint):
                return f"saved {callback.save(trainer)}"
        path = unused_path(Path(trainer.default_root_dir) / "out_of_memory.ckpt")
        trainer.save_checkpoint(path)
    # RuntimeError is what PyTorch raises for files and devices; neither may hide what came first.
    except (FaultError, OSError, RuntimeError) as error:
        return f"not saved ({str(error).partition(chr(10))[0]})"
    return f"saved {path}"
