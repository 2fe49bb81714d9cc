"""Stop when validation no longer improves."""

import lightning.pytorch as L
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

__all__ = ["EarlyStopping"]


class EarlyStopping(LightningEarlyStopping):
    """Lightning's early stopping with the arguments that the configuration offers.

    Args:
        monitor: Logged value to watch.
        mode: `max` or `min`.
        patience: Epochs without improvement before it stops.
        min_delta: Smallest change that counts as an improvement.
    """

    def __init__(
        self,
        monitor: str = "val/f1",
        mode: str = "max",
        patience: int = 3,
        min_delta: float = 0.001,
    ) -> None:
        # Not strict: an epoch that max_steps cuts short is not validated.
        super().__init__(
            monitor=monitor, mode=mode, patience=patience, min_delta=min_delta, strict=False
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once when the run had stopped before it was resumed; Lightning forgets it."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
