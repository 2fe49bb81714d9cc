"""Stop cleanly when asked: finish the optimizer step, save, and say how to go on.

The signal handler only sets a flag. Lightning's own way (`trainer.should_stop`) would validate and
end the epoch, after which a resume is not exact; its SIGTERM handler deadlocks several ranks.
"""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from gpuopt.callbacks.agreement import any_rank
from gpuopt.callbacks.durable_checkpoint import DurableCheckpoint, is_exact_point
from gpuopt.errors import PreemptedError

__all__ = ["Preemption"]

_log = logging.getLogger(__name__)


class Preemption(Checkpoint):  # a Checkpoint, so that Lightning runs it after all other callbacks
    """Turns SIGTERM, SIGUSR1 and Ctrl-C into a checkpoint and `PreemptedError`.

    The same signal again stops at once. Ranks agree before they save, so a signal to any one
    suffices. SIGUSR2, by which a launcher passes on what it was sent, may come any number of times,
    and late: after a stop it is ignored until Lightning gives back the signals that it took.

    Args:
        checkpoint: Saves the state; the same object must be among the Trainer's callbacks.
    """

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, checkpoint: DurableCheckpoint) -> None:
        self._checkpoint = checkpoint
        self._received: list[signal.Signals] = []
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def best_model_path(self) -> str:
        """That of the checkpoint: Lightning asks the first `Checkpoint`, which may be this one."""
        return self._checkpoint.best_model_path

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handlers, after Lightning installed its own."""
        self._received = []
        if threading.current_thread() is not threading.main_thread():
            _log.warning(
                "no signal stops this training: Python handles them in the main thread only"
            )
            return
        for number in self.signals:
            self._previous[number] = signal.signal(number, self._handle)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back when training fails."""
        self._restore()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and stop when a signal came and a resume from here is exact."""
        if is_exact_point(trainer) and self._agreed(trainer):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after the epoch's own checkpoint when a signal came during its end."""
        if self._agreed(trainer):
            self._stop(trainer)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received in self._received and received != signal.SIGUSR2:
            run = self._checkpoint.folder.parent
            raise PreemptedError(f"stopped at once by a second signal; go on with resume={run}")
        if not self._received:
            _log.warning("%s: stopping where a resume is exact (again: at once)", received.name)
        self._received.append(received)

    def _agreed(self, trainer: L.Trainer) -> bool:
        return any_rank(trainer, bool(self._received))

    def _stop(self, trainer: L.Trainer) -> None:
        if self._previous:  # empty outside of the main thread
            self._previous[signal.SIGUSR2] = signal.SIG_IGN
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        path = self._checkpoint.save(trainer)
        trainer.strategy.barrier()
        reason = self._received[0].name if self._received else "a signal to another rank"
        raise PreemptedError(
            f"stopped by {reason} after step {trainer.global_step}, saved {path}; go on with "
            f"resume={path.parent.parent}"
        )

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
