"""Stop when validation no longer improves."""

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
        super().__init__(monitor=monitor, mode=mode, patience=patience, min_delta=min_delta)
