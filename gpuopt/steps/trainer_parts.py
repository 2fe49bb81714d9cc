"""Parts of a Trainer that Lightning sets outside of its class, where no type checker sees them."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L

__all__ = [
    "callbacks_of",
    "data_module_of",
    "reload_every",
    "set_reload_every",
    "show_in_progress_bar",
]


def callbacks_of(trainer: Any) -> list[L.Callback]:
    """Return a Trainer's callbacks in their order."""
    callbacks: list[L.Callback] = trainer.callbacks
    return callbacks


def data_module_of(trainer: Any) -> L.LightningDataModule | None:
    """Return the data module that a Trainer was given, if it was given one."""
    data: L.LightningDataModule | None = trainer.datamodule
    return data


def reload_every(trainer: Any) -> int:
    """Return after how many epochs the loaders are made anew; 0 keeps them."""
    return int(trainer.reload_dataloaders_every_n_epochs)


def set_reload_every(trainer: Any, epochs: int) -> None:
    """Set after how many epochs the loaders are made anew; 0 keeps them."""
    trainer.reload_dataloaders_every_n_epochs = epochs


def show_in_progress_bar(trainer: Any, metrics: Mapping[str, float]) -> None:
    """Show numbers in a Trainer's progress bar, whichever it has.

    `LightningModule.log` would send them to the device, from which the bar reads them back.
    """
    trainer._logger_connector._progress_bar_metrics.update(metrics)
