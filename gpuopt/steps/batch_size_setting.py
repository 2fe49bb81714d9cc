"""Where the batch size of somebody's loaders is set."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities.parsing import lightning_hasattr, lightning_setattr
from torch.utils.data import BatchSampler, DataLoader

from gpuopt.errors import InputError

__all__ = ["set_batch_size"]


def set_batch_size(
    trainer: L.Trainer, module: L.LightningModule, size: int, *, name: str | None = None
) -> None:
    """Set the batch size of the loaders that a fit is going to use.

    Args:
        trainer: In a fit.
        module: That it fits.
        size: Samples per batch and device.
        name: Attribute of the module, its hyper-parameters or its data module; None takes
            `batch_size`, or else changes the loaders that were handed to `fit`.

    Raises:
        InputError: When there is no such place.
    """
    if lightning_hasattr(module, name or "batch_size"):
        lightning_setattr(module, name or "batch_size", size)
    elif name is not None:
        raise InputError(
            f"BatchSizeFinder: neither module, hparams nor data module have the attribute {name}: "
            "give another batch_arg_name, or set_batch_size"
        )
    else:
        loops = (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop)
        for loop in loops:
            if loop._data_source.is_defined():
                _set_in(loop._data_source.instance, size)


def _set_in(loaders: Any, size: int) -> None:
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        for loader in loaders:
            _set_in(loader, size)
    elif isinstance(loaders, DataLoader) and isinstance(loaders.batch_sampler, BatchSampler):
        loaders.batch_sampler.batch_size = size
        # A plain assignment is refused, since PyTorch does not expect it to have an effect.
        vars(loaders)["batch_size"] = size
    else:
        raise InputError(
            f"BatchSizeFinder: where {type(loaders).__name__} takes its batch size from is "
            "unknown: give batch_arg_name or set_batch_size"
        )
